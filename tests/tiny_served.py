"""Tiny models that real servers load: BERTs of one label or more, and chat models."""

import json
import shutil

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.shared_data import DEMO_RM
from tests.tiny_checkpoints import change, randomised

FRAME = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz?.")]
PLAIN = "{% for m in messages %}{{ m.content }} {% endfor %}"
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def cross_encoder(folder, **config):
    """A BERT of one label with a tokenizer of letters, as Hugging Face writes both."""
    folder.mkdir()
    vocabulary = {token: i for i, token in enumerate([*FRAME, *LETTERS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_special_tokens(FRAME)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", truncation_side="left",
    ).save_pretrained(folder)  # fmt: skip
    # as transformers before 5 calls it, which Infinity wants
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "chat_template.jinja").write_text(PLAIN)
    sizes = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
        "num_labels": 1, "pad_token_id": 0,
    }  # fmt: skip
    model = randomised(
        transformers.BertForSequenceClassification(transformers.BertConfig(**{**sizes, **config}))
    )
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads(model.config.to_json_string(use_diff=False))
    stated["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def chat_model(folder, *, says=""):
    """A Llama of random weights, or one that says a text and stops, whatever it is asked."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_RM / name, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    if says:
        tokenizer.add_tokens([says])
        tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=8192, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = randomised(transformers.LlamaForCausalLM(config))
    if says:
        _let_it_say(model, tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id)
    model.save_pretrained(folder)
    return folder


def _let_it_say(model, token, end):
    """Layers add nothing, so that the next token follows from the last: `token`, then `end`."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    read, written = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    read.zero_()
    written.zero_()
    read[:, 0] = written[token, 0] = 1
    read[token] = written[end] = torch.eye(read.shape[1])[1]

"""Random checkpoints of a few kilobytes, and texts and ids to hold them against.

Nothing of evalkit computes an expectation: texts, token ids and positions are this module's own,
and each conversation is read alone and without padding.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

from evalkit.data import Message, Pair
from evalkit.reward_models import load
from tests.shared_data import FIXTURES, spec_of

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BOS, EOT, PAD, CLS = 0, 2, 5, 6
SIZES = {
    "vocab_size": 480, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 1024,
    "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOT,
}  # fmt: skip
QUESTION = (Message("user", "Which is larger, 9.1 or 9.9?"),)
TURNS = (
    Message("system", "Answer in one word."),
    Message("user", "Hi"),
    Message("assistant", "Hello there"),
    Message("user", "Name a rare animal; ñandú?"),
)
CHATS = [
    (*QUESTION, Message("assistant", "9.9, since 9.9 is more than 9.1.")),
    (*QUESTION, Message("assistant", "9.1 of course")),
    (*TURNS, Message("assistant", "The saola, " * 9)),
    (*QUESTION, Message("assistant", "")),
]
PAIRS = [
    Pair(QUESTION, "9.9, since 9 is more.", "9.1"),
    Pair(QUESTION, "9.1", "9.9, since 9 is more."),
    Pair((TURNS[1],), "Hello! How can I help?", ""),
]


# Texts and ids


def ids_of(text, tokenizer="inform"):
    path = FIXTURES / tokenizer / "tokenizer.json"
    return Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids


def llama3(messages, *, header=False):
    turns = [(m.role, f"{m.content.strip()}<|eot_id|>") for m in messages]
    turns += [("assistant", "")] if header else []
    return "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}" for role, text in turns
    )


def with_cls(messages):
    return llama3(messages) + "<|reward|>"


def beaver(messages):
    names = {"user": "USER", "assistant": "ASSISTANT"}
    turns = "".join(f"{names[m.role]}: {m.content} " for m in messages if m.role in names)
    return f"<|begin_of_text|>BEGINNING OF CONVERSATION: {turns}"


def oasst(messages):
    names = {"system": "system", "user": "prompter", "assistant": "assistant"}
    turns = (f"<|{names[m.role]}|>{m.content}<|endoftext|>" for m in messages)
    return "<|begin_of_text|>" + "".join(turns)


# Checkpoints


def trunk_of(architecture="Llama", **changes):
    config = getattr(transformers, f"{architecture}Config")(**{**SIZES, **changes})
    return transformers.AutoModel.from_config(config)


def gemma2():
    """A trunk whose attention is cut to a window, and its logits squeezed enough to show."""
    config = transformers.Gemma2Config(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, attn_logit_softcapping=1.0
    )
    return transformers.AutoModel.from_config(config, attn_implementation="eager")


def randomised(module, seed=11):
    """The module with weights large enough that every token and every tensor moves the reward."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            positive = name.endswith(("norm.weight", "Norm.weight", "var"))
            noise = torch.randn(tensor.shape, generator=generator) * 0.25
            tensor.data.copy_(1 + noise.abs() if positive else noise)
    return module.eval()


def publish(folder, module, fixture="inform", *, drop=(), **config):
    """Write a module as a checkpoint: its tensors, its trunk's config, a fixture's tokenizer."""
    folder.mkdir()
    for name in TOKENIZER:
        shutil.copy(FIXTURES / fixture / name, folder)
    trunk = next(m for m in module.modules() if isinstance(m, transformers.PreTrainedModel))
    stated = {**json.loads(trunk.config.to_json_string(use_diff=False)), **config}
    (folder / "config.json").write_text(json.dumps(stated))
    tensors = {k: v.clone() for k, v in module.state_dict().items() if not k.startswith(drop)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change(path, **keys):
    """Replace keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def retokenised(folder, before=(), after=()):
    """Let the tokenizer put these tokens before and after each text, nothing between a pair."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    names = {t["id"]: t["content"] for t in content["added_tokens"]}
    first, last = ([{"SpecialToken": {"id": names[i], "type_id": 0}} for i in ids]
                   for ids in (before, after))  # fmt: skip
    body, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    tokens = {
        names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in (*before, *after)
    }
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*first, body, *last],
        "pair": [*first, body, second, *last],
        "special_tokens": tokens,
    }
    path.write_text(json.dumps(content))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("bos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def rows_of(module, text_of=llama3):
    """What the module makes of each conversation: its reward, then its attributes."""
    with torch.inference_mode():
        return np.array(
            [
                module(
                    torch.tensor([ids_of(text_of(chat))]),
                    len(ids_of(llama3(chat[:-1]))) - 1,  # the token that closes the last question
                )
                .flatten()
                .tolist()
                for chat in CHATS
            ]
        )


def found_rows(folder, items=CHATS, **settings):
    """What evalkit makes of items, in one batch; padding on either side is the same."""
    model = load(spec_of(folder, **settings), device="cpu")
    rendered = model.render(items)
    assert [row.problem for row in rendered] == [""] * len(items)
    together = model.rewards(rendered)
    model.padding_side = "left"
    assert model.rewards(rendered) == close(together)
    return together


def close(expected, tolerance=2e-5):
    return pytest.approx(np.asarray(expected), rel=tolerance, abs=tolerance)


def language_model(folder, architecture="Llama", seed=11, **changes):
    """A random language model, saved with a fixture's tokenizer."""
    config = getattr(transformers, f"{architecture}Config")(**{**SIZES, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomised(model, seed).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(FIXTURES / "inform" / name, folder)
    return model

"""Pair-preference layouts in sizes no fixture has, against the published arithmetic restated."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from evalkit.data import Message, Pair
from evalkit.reward_models import load
from tests.shared_data import FIXTURES, needs_shared, spec_of
from tests.tiny_checkpoints import (
    BOS,
    EOT,
    PAD,
    PAIRS,
    QUESTION,
    TOKENIZER,
    close,
    found_rows,
    ids_of,
    language_model,
    llama3,
    publish,
    randomised,
    retokenised,
)

pytestmark = needs_shared


def test_pairrm_reads_each_candidate_beside_the_source_and_averages_its_tasks(tmp_path):
    stated = json.loads((FIXTURES / "pairrm" / "config.json").read_text())
    sizes = {"hidden_size": 40, "num_attention_heads": 5, "pooler_hidden_size": 40, "n_tasks": 3}
    config = transformers.DebertaV2Config(**{**stated, **sizes})
    module = nn.Module()
    module.pretrained_model = transformers.DebertaV2Model(config)
    module.head_layer = nn.Sequential(
        *(nn.Dropout(0.5), nn.Linear(80, 24), nn.Tanh(), nn.Dropout(0.5), nn.Linear(24, 3))
    )
    folder = publish(tmp_path / "rm", randomised(module), "pairrm", **{**stated, **sizes})
    source = (
        "<|source|>Finish the following coversation in each i-th turn by filling in <Response i> "
        "with your response.USER: {}\nAssistant: <Response 1>"
    )
    expected = []
    for pair in PAIRS:
        texts = [source.format(pair.prompt[0].content)]
        texts += [f"<|candidate1|><Response 1>: {pair.first}"]
        texts += [f"<|candidate2|><Response 1>: {pair.second}"]
        parts = [[BOS, *ids_of(text, "pairrm"), EOT] for text in texts]
        starts = [1, len(parts[0]) + 1, len(parts[0]) + len(parts[1]) + 1]
        with torch.inference_mode():
            hidden = module.pretrained_model(
                torch.tensor([[i for part in parts for i in part]])
            ).last_hidden_state[0]
            head, first, second = (hidden[i] for i in starts)
            scores = [module.head_layer(torch.cat([head, state])) for state in (first, second)]
            expected.append((scores[0] - scores[1]).mean().item())
    assert np.ptp(expected) > 0.05
    assert found_rows(folder, PAIRS)[:, 0] == close(expected)


def test_steamshp_weighs_the_two_letters_at_the_first_step_of_the_decoder(tmp_path):
    config = transformers.T5Config(
        vocab_size=480, d_model=24, d_kv=4, d_ff=32, num_layers=2, num_heads=3, pad_token_id=PAD,
        eos_token_id=EOT, decoder_start_token_id=PAD, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    model = randomised(transformers.T5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path / "rm")
    for name in TOKENIZER[:2]:
        shutil.copy(FIXTURES / "inform" / name, tmp_path / "rm")
    retokenised(tmp_path / "rm", after=[EOT])
    expected = []
    for pair in PAIRS:
        text = (
            f"POST: {pair.prompt[0].content}\n\n RESPONSE A: {pair.first}\n\n RESPONSE B: "
            f"{pair.second}\n\n Which response is better? RESPONSE"
        )
        with torch.inference_mode():
            ids, start = torch.tensor([[*ids_of(text), EOT]]), torch.tensor([[PAD]])
            logits = model(input_ids=ids, decoder_input_ids=start).logits[0, 0]
        expected.append((logits[ids_of("A")] - logits[ids_of("B")]).item())
    assert np.ptp(expected) > 0.05
    assert found_rows(tmp_path / "rm", PAIRS, family="steamshp", max_length=512)[:, 0] == close(
        expected
    )


def test_a_pair_preference_model_of_another_trunk_reads_the_letters_after_the_question(tmp_path):
    model = language_model(tmp_path / "rm", "Qwen2")
    expected = []
    for pair in PAIRS:
        context = f"\n\n<turn> user\n {pair.prompt[0].content}\n"
        text = f"[CONTEXT] {context} [RESPONSE A] {pair.first} [RESPONSE B] {pair.second} \n"
        ids = ids_of(llama3((Message("user", text),)))[1:]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected.append((logits[ids_of("A")] - logits[ids_of("B")]).item())
    assert np.ptp(expected) > 0.05
    assert found_rows(tmp_path / "rm", PAIRS, family="pair-preference")[:, 0] == close(expected)


@pytest.mark.parametrize("words", [40, 900, 2500])
def test_pairrm_keeps_the_start_of_each_part_that_its_authors_keep(words):
    text = "because " * words
    settings = {"overlong": "truncate-right"}
    model = load(spec_of(FIXTURES / "pairrm", **settings), device="cpu")
    (row,) = model.render([Pair((Message("user", text),), text, "Yes")])
    instruction = "Finish the following coversation in each i-th turn by filling in <Response i>"
    asked = f"<|source|>{instruction} with your response.USER: {text}\nAssistant: <Response 1>"
    source = [BOS, *ids_of(asked, "pairrm")[: 1224 - 2], EOT]
    room = (1224 + 824 - len(source)) // 2 - 2
    texts = [f"<|candidate1|><Response 1>: {text}", "<|candidate2|><Response 1>: Yes"]
    candidates = [[BOS, *ids_of(each, "pairrm")[:room], EOT] for each in texts]
    assert row.ids == [*source, *candidates[0], *candidates[1]]
    assert row.marks == (1, len(source) + 1, len(source) + len(candidates[0]) + 1)


def test_a_part_of_a_pair_that_is_too_long_has_no_reward_unless_a_cut_is_asked_for():
    model = load(spec_of(FIXTURES / "pairrm"), device="cpu")
    (row,) = model.render([Pair(QUESTION, "because " * 2500, "Yes")])
    assert (row.ids, bool(row.problem)) == ([], True)

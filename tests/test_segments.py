"""Segment ids of a question and an answer that a BERT reads as a pair: those of its tokenizer."""

import numpy as np
import pytest
import torch
import transformers

from evalkit.data import Message
from evalkit.reward_models import load
from tests.shared_data import spec_of
from tests.tiny_served import cross_encoder

TEXTS = [
    ("Why is the sky blue?", "It scatters light."),
    ("Capital of France?", "Paris"),
    ("Which letter comes after a?", "b"),
    ("Say nothing.", ""),
    ("a", "a much longer answer than its question was"),
]


def by_transformers(folder, texts, **how):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for question, answer in texts:
        pair = (question, answer) if answer else (question,)
        batch = tokenizer(*pair, return_tensors="pt", return_token_type_ids=True, **how)
        with torch.inference_mode():
            found.append(model(**batch).logits.item())
    return np.array(found)


def here(folder, texts, **settings):
    spec = spec_of(folder, family="openassistant-deberta", dtype="float32", **settings)
    model = load(spec, device="cpu")
    rendered = model.render([(Message("user", q), Message("assistant", a)) for q, a in texts])
    assert not any(row.problem for row in rendered)
    return model, rendered


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cross_encoder(tmp_path_factory.mktemp("bert") / "rm")


def test_a_bert_reads_question_and_answer_as_its_own_tokenizer_encodes_them(folder):
    model, rendered = here(folder, TEXTS)
    expected = by_transformers(folder, TEXTS)
    assert np.abs(model.rewards(rendered)[:, 0] - expected).max() < 1e-5
    alone = np.array([model.rewards([row])[0, 0] for row in rendered])
    assert np.abs(alone - expected).max() < 1e-5


def test_a_question_cut_at_its_start_keeps_the_segments_of_the_rest(folder):
    long = [("w" * 30 + q, a) for q, a in TEXTS if a]
    model, rendered = here(folder, long, max_length=64, overlong="truncate-left")
    expected = by_transformers(folder, long, truncation="only_first", max_length=64)
    assert any(row.cut for row in rendered)
    assert np.abs(model.rewards(rendered)[:, 0] - expected).max() < 1e-5


def test_an_answer_cut_at_its_end_keeps_the_segments_of_the_rest(folder):
    for question, answer, segments in (
        ("ab", "cdefghijklmn", (0,) * 4 + (1,) * 8),  # [CLS] a b [SEP] c d e f g h i [SEP]
        ("abcdefghijklm", "no", (0,) * 11 + (1,)),  # [CLS] a b c d e f g h i j [SEP]
    ):
        _, (row,) = here(folder, [(question, answer)], max_length=12, overlong="truncate-right")
        assert (row.segments, len(row.ids)) == (segments, 12)


def test_a_trunk_without_segments_is_given_none_and_keeps_its_identity(tmp_path):
    one = cross_encoder(tmp_path / "one", type_vocab_size=1)
    model, rendered = here(one, TEXTS)
    assert not any(row.segments for row in rendered)
    assert "segments" not in model.spec.manifest
    assert np.isfinite(model.rewards(rendered)).all()


def test_segments_are_part_of_the_identity_where_they_move_rewards(folder):
    pair = spec_of(folder, family="openassistant-deberta")
    assert pair.manifest["segments"] is True
    text = spec_of(folder, family="sequence-classifier", parameters={"template": "{{ messages }}"})
    assert "segments" not in text.manifest

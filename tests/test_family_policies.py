"""Language models as reward models: which tokens count, and what becomes of their likelihoods."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from evalkit.data import Message
from evalkit.reward_models import load
from tests.shared_data import needs_shared, spec_of
from tests.tiny_checkpoints import (
    BOS,
    CHATS,
    EOT,
    QUESTION,
    close,
    found_rows,
    ids_of,
    language_model,
    llama3,
)

pytestmark = needs_shared


def answer_log_probs(model, ids, begin, end):
    with torch.inference_mode():
        steps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return torch.stack([steps[i - 1, ids[i]] for i in range(begin, end)])


def spans(chats=CHATS):
    for chat in chats:
        ids = ids_of(llama3(chat))
        yield ids, len(ids_of(llama3(chat[:-1], header=True))), len(ids)


@pytest.mark.parametrize("tied", [False, True])
def test_dpo_is_a_tenth_of_the_log_ratio_of_the_answer_and_its_closing_token(tmp_path, tied):
    policy = language_model(tmp_path / "rm" / "policy", tie_word_embeddings=tied)
    reference = language_model(tmp_path / "rm" / "ref", seed=12, tie_word_embeddings=tied)
    expected = [
        0.1 * (answer_log_probs(policy, *span) - answer_log_probs(reference, *span)).sum().item()
        for span in spans()
    ]
    assert found_rows(tmp_path / "rm")[:, 0] == close(expected)
    assert found_rows(tmp_path / "rm", parameters={"beta": 0.5})[:, 0] == close(
        5 * np.array(expected)
    )


REDUCTIONS = {
    "simpo": lambda log_probs: 2 * log_probs.mean(),
    "rrhf": lambda log_probs: log_probs.mean(),
    "logprob": lambda log_probs: log_probs.sum(),
}


@pytest.mark.parametrize("family", REDUCTIONS)
@pytest.mark.parametrize("architecture", ["Llama", "Mistral"])
def test_an_answer_is_as_good_as_its_policy_finds_it_likely(tmp_path, family, architecture):
    policy = language_model(tmp_path / "rm", architecture)
    expected = [REDUCTIONS[family](answer_log_probs(policy, *span)).item() for span in spans()]
    assert np.ptp(expected) > 0.05
    assert found_rows(tmp_path / "rm", family=family)[:, 0] == close(expected)


def test_the_norm_is_that_of_the_token_log_probabilities_negated(tmp_path):
    policy = language_model(tmp_path / "rm")
    expected = [-answer_log_probs(policy, *span).square().sum().sqrt().item() for span in spans()]
    found = found_rows(tmp_path / "rm", family="logprob", parameters={"norm": "norm"})
    assert found[:, 0] == close(expected)


def test_what_a_template_writes_after_the_turn_is_no_part_of_the_answer(tmp_path):
    policy = language_model(tmp_path / "rm")
    path = tmp_path / "rm" / "chat_template.jinja"
    path.write_text(path.read_text().replace("'<|eot_id|>' }}", "'<|eot_id|>' + '\\n' }}"))
    text = llama3(CHATS[0]).replace("<|eot_id|>", "<|eot_id|>\n")
    begin = len(ids_of(text[: text.index(CHATS[0][-1].content)]))
    ids = ids_of(text)
    assert ids[-2] == EOT
    expected = answer_log_probs(policy, ids, begin, len(ids) - 1).sum().item()
    assert found_rows(tmp_path / "rm", [CHATS[0]], family="logprob")[0, 0] == pytest.approx(
        expected, rel=2e-5
    )


@pytest.mark.parametrize("header", ["\n\n", " ", "\n"])
@pytest.mark.parametrize("answer", ["the end", "\nYes", "\n\n\nYes", " Yes", "Yes\n\n", "\n", ""])
def test_a_token_that_joins_header_and_answer_is_scored_with_the_answer(tmp_path, header, answer):
    policy = language_model(tmp_path / "rm")
    path = tmp_path / "rm" / "chat_template.jinja"
    path.write_text(path.read_text().replace(" | trim", "").replace("\n\n", header))
    before = llama3(QUESTION, header=True).replace("\n\n", header)
    tokenizer = Tokenizer.from_file(str(tmp_path / "rm" / "tokenizer.json"))
    encoded = tokenizer.encode(f"{before}{answer}<|eot_id|>", add_special_tokens=False)
    begin = next(i for i, (_, end) in enumerate(encoded.offsets) if end > len(before))
    if (header, answer) in {(" ", "the end"), ("\n", "\nYes")}:
        assert encoded.offsets[begin][0] < len(before)
    expected = answer_log_probs(policy, encoded.ids, begin, len(encoded.ids)).sum().item()
    chat = (*QUESTION, Message("assistant", answer))
    found = found_rows(tmp_path / "rm", [chat], family="logprob")
    assert found[0, 0] == pytest.approx(expected, rel=2e-5)


def long_chat(words=90):
    return (*QUESTION, Message("assistant", "because " * words))


def cut_row(folder, length, overlong):
    settings = {"family": "logprob", "max_length": length, "overlong": overlong}
    model = load(spec_of(folder, **settings), device="cpu")
    (row,) = model.render([long_chat()])
    return row, model.rewards([row])[0, 0] if row.ids else None


def test_a_cut_of_the_prompt_leaves_the_answer_whole(tmp_path):
    policy = language_model(tmp_path / "rm")
    ((ids, begin, end),) = spans([long_chat()])
    lost = begin - 10
    row, found = cut_row(tmp_path / "rm", len(ids) - lost, "truncate-left")
    kept = [BOS, *ids[1 + lost :]]
    assert (row.ids, row.cut) == (kept, lost)
    expected = answer_log_probs(policy, kept, begin - lost, end - lost).sum().item()
    assert found == pytest.approx(expected, rel=2e-5)


def test_a_cut_of_the_answer_scores_what_is_left_of_it(tmp_path):
    policy = language_model(tmp_path / "rm")
    ((ids, begin, _),) = spans([long_chat()])
    row, found = cut_row(tmp_path / "rm", 60, "truncate-right")
    assert (row.ids, row.cut) == (ids[:60], len(ids) - 60)
    expected = answer_log_probs(policy, ids[:60], begin, 60).sum().item()
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(("length", "overlong"), [(60, "truncate-left"), (20, "truncate-right")])
def test_an_answer_cut_off_at_its_start_has_no_reward(tmp_path, length, overlong):
    language_model(tmp_path / "rm")
    row, _ = cut_row(tmp_path / "rm", length, overlong)
    assert (row.ids, bool(row.problem)) == ([], True)

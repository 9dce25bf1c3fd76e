import math
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.data import (
    Message,
    Preferences,
    Prompt,
    Rewards,
    Row,
    Unreadable,
    completion_set,
)
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.pairing import TieRule, bootstrap_keys, pair, pair_preferences

fast = settings(max_examples=40, deadline=None)
HALF = TieRule()
EIGHTHS = st.integers(-40, 40).map(lambda i: i / 8)


def ask(prompt_id, text="", subset=""):
    return Prompt(prompt_id, (Message("user", text or f"question {prompt_id}"),), subset)


def side(name, rewards, *, prompts=(), order=None):
    """A set and its rewards from {prompt id: reward of each completion}; None is a failure."""
    known = {p.prompt_id: p for p in [*map(ask, rewards), *prompts]}
    rows = [
        Row(i, known[i].messages, f"answer {k}", known[i].subset, k)
        for i, each in rewards.items()
        for k in range(len(each))
    ]
    found = completion_set(name, rows if order is None else [rows[j] for j in order])
    flat = [(p.prompt_id, k, r) for p in found.prompts for k, r in enumerate(rewards[p.prompt_id])]
    return found, Rewards(
        prompt_id=np.array([i for i, _, _ in flat], dtype=object),
        reward=np.array([np.nan if r is None else r for _, _, r in flat], dtype=np.float64),
        tokens=np.array([0 if r is None else 10 + k for _, k, r in flat]),
        cut=np.zeros(len(flat), dtype=np.int64),
        failures={row: "too long" for row, (_, _, r) in enumerate(flat) if r is None},
    )


def test_three_prompts_by_hand():
    left = side("ckpt", {"win": [2.5], "tie": [1.0], "loss": [-1.0]})
    right = side("refs", {"win": [0.5], "tie": [1.0], "loss": [0.0]})
    table = pair(left, right, ties=HALF)
    assert table.prompt_id.tolist() == ["loss", "tie", "win"]
    assert table.checkpoint_reward.tolist() == [-1.0, 1.0, 2.5]
    assert table.reference_reward.tolist() == [0.0, 1.0, 0.5]
    assert table.margin.tolist() == [-1.0, 0.0, 2.0]
    assert table.outcome.tolist() == [0.0, 0.5, 1.0]
    # σ(-1) = 1/(1 + e), σ(0) = 1/2, σ(2) = 1/(1 + e⁻²)
    expected = [1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2))]
    np.testing.assert_allclose(table.probability, expected, rtol=1e-15)
    assert len(table.unmatched) == 0


def test_tie_margin_decides_pairs_not_means():
    left, right = side("ckpt", {"a": [3.0, 0.5]}), side("refs", {"a": [0.0]})
    # margins 3 and 0.5: a win and, within 1, a tie
    assert pair(left, right, ties=TieRule(margin=1.0)).outcome.tolist() == [0.75]


def test_dropped_ties_leave_the_other_pairs_of_a_prompt_or_nothing():
    left = side("ckpt", {"all": [1.0, 1.0], "none": [3.0], "some": [1.0, 2.0]})
    right = side("refs", {"all": [1.0], "none": [1.0], "some": [1.0]})
    table = pair(left, right, ties=TieRule(drop=True))
    np.testing.assert_array_equal(table.outcome, [np.nan, 1.0, 1.0])
    assert table.probability[0] == 0.5


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (TieRule(), "half"),
        (TieRule(margin=0.25), "margin=0.25"),
        (TieRule(drop=True), "drop"),
    ],
)
def test_tie_rule_prints_as_what_it_does(rule, text):
    assert str(rule) == text


def test_tie_rules_that_decide_differently_print_differently():
    assert str(TieRule(margin=0.25, drop=True)) != str(TieRule(drop=True))


@given(
    st.dictionaries(
        st.sampled_from("abcde"),
        st.tuples(*[st.lists(EIGHTHS, min_size=1, max_size=4)] * 2),
        min_size=1,
    )
)
@fast
def test_several_completions_are_paired_each_with_each(rewards):
    left = side("ckpt", {i: both[0] for i, both in rewards.items()})
    right = side("refs", {i: both[1] for i, both in rewards.items()})
    table = pair(left, right, ties=HALF)
    assert table.prompt_id.tolist() == sorted(rewards)
    for row, prompt_id in enumerate(sorted(rewards)):
        ours, theirs = rewards[prompt_id]
        outcomes = [(a > b) + (a == b) / 2 for a, b in product(ours, theirs)]
        probabilities = [1 / (1 + math.exp(b - a)) for a, b in product(ours, theirs)]
        found = [
            table.checkpoint_reward[row],
            table.reference_reward[row],
            table.outcome[row],
            table.probability[row],
            table.checkpoint_tokens[row],
            table.reference_tokens[row],
        ]
        columns = [ours, theirs, outcomes, probabilities]
        columns += [[10 + k for k in range(len(each))] for each in (ours, theirs)]
        np.testing.assert_allclose(found, [sum(c) / len(c) for c in columns], rtol=1e-12)


LEFT = {"a": [0.3, 0.1, 0.7], "b": [1.0], "c": [0.2, 0.9], "alone": [1.0]}
RIGHT = {"c": [0.4], "a": [0.6, 0.25], "b": [1.0, 2.0, 1 / 3], "bad": [None], "other": [2.0]}


@given(st.permutations(range(7)), st.permutations(range(8)))
@fast
def test_row_order_of_the_files_does_not_move_a_bit(left_order, right_order):
    plain = pair(side("ckpt", LEFT), side("refs", RIGHT), ties=HALF, missing="drop")
    shuffled = pair(
        side("ckpt", LEFT, order=left_order),
        side("refs", RIGHT, order=right_order),
        ties=HALF,
        missing="drop",
    )
    assert shuffled.unmatched == plain.unmatched
    for name, column in plain.columns().items():
        np.testing.assert_array_equal(shuffled.columns()[name], column, err_msg=name)


def test_swapping_the_sides_turns_values_into_their_complement():
    left, right = side("ckpt", {"a": [0.5, 2.0], "b": [1.0]}), side("refs", {"a": [1], "b": [1]})
    forth, back = pair(left, right, ties=HALF), pair(right, left, ties=HALF)
    np.testing.assert_array_equal(forth.outcome, 1 - back.outcome)
    np.testing.assert_allclose(forth.probability, 1 - back.probability, rtol=1e-15)
    np.testing.assert_array_equal(forth.margin, -back.margin)


# Prompts that cannot be paired

SHARED = {"both": [1.0]}


def test_unmatched_prompts_of_both_sides_are_refused_by_name():
    left = side("ckpt", SHARED | {"only-left": [1.0]})
    right = side("refs", SHARED | {"only-right": [1.0]})
    with pytest.raises(InputError) as refusal:
        pair(left, right, ties=HALF)
    assert refusal.value.exit_code == 2
    assert "2 prompts" in str(refusal.value)
    assert "refs lacks only-left" in str(refusal.value)
    assert "ckpt lacks only-right" in str(refusal.value)


def test_unmatched_prompts_of_both_sides_are_named_when_dropped():
    left = side("ckpt", SHARED | {"only-left": [1.0]})
    right = side("refs", SHARED | {"only-right": [1.0]})
    table = pair(left, right, ties=HALF, missing="drop")
    assert table.prompt_id.tolist() == ["both"]
    assert table.unmatched.missing_in_checkpoint == ("only-right",)
    assert table.unmatched.missing_in_reference == ("only-left",)
    assert len(table.unmatched) == 2


def test_prompt_of_the_benchmark_that_nobody_answered_is_refused_by_name():
    expected = [ask("both"), ask("forgotten")]
    with pytest.raises(InputError, match="forgotten"):
        pair(side("ckpt", SHARED), side("refs", SHARED), ties=HALF, expected=expected)


def test_prompt_of_the_benchmark_that_nobody_answered_is_counted_once_when_dropped():
    expected = [ask("both"), ask("forgotten")]
    table = pair(
        side("ckpt", SHARED), side("refs", SHARED), ties=HALF, missing="drop", expected=expected
    )
    assert table.unmatched.missing_in_checkpoint == ("forgotten",)
    assert table.unmatched.missing_in_reference == ("forgotten",)
    assert len(table.unmatched) == 1


@pytest.mark.parametrize("at_fault", ["ckpt", "refs"])
def test_unscored_completions_are_refused_by_name_and_reason(at_fault):
    rewards = {"both": [1.0], "bad": [1.0, None]}
    whole = {"both": [1.0], "bad": [2.0]}
    left, right = (side(n, rewards if n == at_fault else whole) for n in ("ckpt", "refs"))
    with pytest.raises(MissingError) as refusal:
        pair(left, right, ties=HALF)
    assert refusal.value.exit_code == 6
    for part in ("1 prompt ", "bad", at_fault, "too long"):
        assert part in str(refusal.value)


def test_prompt_with_an_unscored_completion_is_left_out_whole_and_named_when_dropped():
    left = side("ckpt", {"both": [1.0], "bad": [5.0, None]})
    right = side("refs", {"both": [1.0], "bad": [2.0]})
    table = pair(left, right, ties=HALF, missing="drop")
    assert table.prompt_id.tolist() == ["both"]
    assert dict(table.unmatched.unscored) == {"bad": "ckpt: too long"}


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_sets_without_a_common_prompt_are_refused(missing):
    with pytest.raises(InputError):
        pair(side("ckpt", {"a": [1.0]}), side("refs", {"b": [1.0]}), ties=HALF, missing=missing)


@pytest.mark.parametrize(
    "other", [ask("same", "another question"), ask("same", subset="code")], ids=["text", "subset"]
)
@pytest.mark.parametrize("missing", ["error", "drop"])
def test_one_id_for_different_prompts_is_refused(other, missing):
    left = side("ckpt", {"same": [1.0]}, prompts=[ask("same", subset="maths")])
    right = side("refs", {"same": [1.0]}, prompts=[other])
    with pytest.raises(IntegrityError, match="same") as refusal:
        pair(left, right, ties=HALF, missing=missing)
    assert refusal.value.exit_code == 5


# The table


@pytest.mark.parametrize("named_by", ["ckpt", "refs"])
def test_subset_named_by_one_side_is_the_prompts_subset(named_by):
    prompts = [ask("a", subset="maths")]
    left, right = (
        side(n, {"a": [1.0], "b": [1.0]}, prompts=prompts if n == named_by else ())
        for n in ("ckpt", "refs")
    )
    table = pair(left, right, ties=HALF)
    assert table.subset.tolist() == ["maths", ""]
    assert table.rows("maths").tolist() == [0]


IDS = ["a", "a\0", "a\0\0", "é", "e\u0301", "雪", "🏔", "1", "01", " 1"]


def test_ids_are_kept_code_point_for_code_point():
    left, right = (side(n, {i: [float(k)] for k, i in enumerate(IDS)}) for n in ("ckpt", "refs"))
    table = pair(left, right, ties=HALF)
    assert table.prompt_id.tolist() == sorted(IDS)
    assert table.to_frame()["prompt_id"].tolist() == sorted(IDS)
    assert table.checkpoint_reward.tolist() == [float(IDS.index(i)) for i in sorted(IDS)]
    assert len(set(bootstrap_keys(table.prompt_id.tolist(), 0).tolist())) == len(IDS)


def test_resample_key_depends_on_id_and_seed_alone():
    small = pair(side("ckpt", {"b": [1.0]}), side("refs", {"b": [2.0]}), ties=HALF)
    large = pair(*(side(n, {"a": [1.0], "b": [3.0, 4.0]}) for n in ("x", "y")), ties=HALF)
    assert bootstrap_keys(small.prompt_id.tolist(), 1).dtype == np.uint64
    assert (
        bootstrap_keys(small.prompt_id.tolist(), 1)[0]
        == bootstrap_keys(large.prompt_id.tolist(), 1)[1]
    )
    assert (
        bootstrap_keys(small.prompt_id.tolist(), 1)[0]
        != bootstrap_keys(small.prompt_id.tolist(), 2)[0]
    )


def test_columns_are_read_only():
    table = pair(side("ckpt", SHARED), side("refs", SHARED), ties=HALF)
    columns = [v for f in fields(table) if hasattr(v := getattr(table, f.name), "flags")]
    assert len(columns) == 10
    assert not any(column.flags.writeable for column in columns)


@pytest.mark.parametrize("column", ["prompt_id", "order_shift"])
def test_columns_of_different_lengths_are_refused(column):
    table = pair(side("ckpt", SHARED), side("refs", SHARED), ties=HALF)
    longer = np.concatenate([getattr(table, column)] * 2)
    with pytest.raises(ValueError, match=f"'{column}': {2 * len(table.prompt_id)}"):
        replace(table, **{column: longer})


def test_frame_has_one_row_per_prompt_and_every_column():
    left, right = (side(n, {"b": [1.0, 2.0], "a": [1.0]}) for n in ("ckpt", "refs"))
    table = pair(left, right, ties=HALF)
    frame = table.to_frame()
    assert frame["prompt_id"].tolist() == ["a", "b"]
    for name, column in table.columns().items():
        assert frame[name].tolist() == column.tolist(), name


def test_a_prompt_with_an_unreadable_verdict_is_counted_whatever_else_failed():
    left = side("ckpt", {"a": [0.0, 0.0], "b": [0.0], "c": [0.0]})[0]
    right = side("refs", {"a": [0.0], "b": [0.0], "c": [0.0]})[0]
    said = Preferences(
        prompt_id=np.array(["a", "a", "b", "c"], dtype=object),
        probability=np.array([np.nan, np.nan, np.nan, 0.7]),
        order_gap=np.zeros(4),
        cut=np.zeros(4, dtype=np.int64),
        failures={
            0: "the server failed: HTTP 500",
            1: Unreadable("unreadable verdict: the judge's last line is 'Hm.'"),
            2: "the server failed: unreadable verdict",  # what a server says is not what it is
        },
    )
    unmatched = pair_preferences(left, right, said, ties=HALF, missing="drop").unmatched
    assert (len(unmatched), unmatched.unreadable) == (2, 1)
    assert unmatched.unscored["a"].startswith("the server failed: HTTP 500; unreadable verdict")
    with pytest.raises(MissingError, match=r"2 prompts .* 1 for want of a readable verdict"):
        pair_preferences(left, right, said, ties=HALF)

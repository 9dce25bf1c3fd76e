"""Accuracy of reward models on suites: what is scored, what is refused before, what is counted."""

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from evalkit.accuracy import Options, Signature, accuracy
from evalkit.data import Message
from evalkit.errors import InputError, MissingError
from evalkit.scoring import RunSettings
from evalkit.store import Store
from evalkit.suites import find_suite
from evalkit.workspace import Workspace
from tests.fake_reward_model import FakeRewardModel, expected, fake_spec, hashed
from tests.test_accuracy_rewards import own_rows, write
from tests.test_outputs import FakePairs

QUIET = RunSettings(progress=False, device="cpu")
PARTIAL = Options(partial=True)


class Bench:
    """Runs under a fake reward model, which keeps count of what it is asked."""

    def __init__(self, folder):
        self.folder, self.model = folder, FakeRewardModel()

    def run(self, suite, data, *specs, rewards=(), options=None):
        found = find_suite(suite, Workspace(self.folder))
        with Store(self.folder / "store.db") as store:
            return accuracy(
                found, specs or (fake_spec(),), store,
                rewards=rewards, data=data, options=options,
                settings=replace(QUIET, load=self.model.load),
            )  # fmt: skip

    def suite(self, subsets, layout="pairs", credit="strict", name="own"):
        """A suite file: subset -> what TOML says of it."""
        lines = "\n".join(f"{name} = {{ {what} }}" for name, what in subsets.items())
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'credit = "{credit}"\nlayout = "{layout}"\n[[data]]\nname = "main"\n[subsets]\n{lines}'
        )
        return str(path)

    def rows(self, rows, name="rows.jsonl"):
        return {"main": write(self.folder / name, rows)}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


SUBSETS = {"a": "rows = 4", "b": "rows = 2"}


def pair_rows(ids=range(6)):
    return [
        {
            "id": row_id,
            "prompt": f"Question {i}?",
            "chosen": f"Right {i}" + "!" * i,
            "rejected": f"Wrong {i}!!",
            "subset": "aaaabb"[i],
        }
        for i, row_id in enumerate(ids)
    ]


def reward(prompt, answer):
    return expected((Message("user", prompt), Message("assistant", answer)))


def margin(row):
    return reward(row["prompt"], row["chosen"]) - reward(row["prompt"], row["rejected"])


def values(parts):
    return {name: part.score.strict.value for name, part in parts.items()}


# Scoring


def test_pairs_are_scored_once_ever(bench):
    suite, data = bench.suite(SUBSETS), bench.rows(pair_rows())
    (table,) = bench.run(suite, data).tables
    right = [margin(row) > 0 for row in pair_rows()]
    assert values(table.subsets) == pytest.approx(
        {"a": np.mean(right[:4]), "b": np.mean(right[4:])}
    )
    assert table.overall.score.strict.value == pytest.approx(
        (np.mean(right[:4]) + np.mean(right[4:])) / 2
    )
    assert (bench.model.loads, bench.model.rows) == (1, 12)
    again = bench.run(suite, data)
    assert (bench.model.loads, bench.model.rows) == (1, 12)
    assert again.tables[0].signature == table.signature
    assert Signature.parse(str(table.signature)) == table.signature
    assert again.tables[0].rows == table.rows
    assert again.prompts["a", "0"] == "Question 0?"


def test_equal_answers_of_several_rows_are_scored_once_and_new_ones_added(bench):
    rows = pair_rows()
    rows[1] = {**rows[0], "id": 1}
    suite = bench.suite(SUBSETS)
    (table,) = bench.run(suite, bench.rows(rows)).tables
    assert bench.model.rows == 10
    assert table.overall.score.strict.clusters == 5  # two rows share their prompt
    bench.model = FakeRewardModel()
    bench.run(suite, bench.rows(pair_rows()))
    known_again = 8  # what the store has is checked by some of it
    assert bench.model.rows == 2 + known_again


def test_best_of_rows_and_a_shared_top(bench):
    suite = bench.suite({"a": "rows = 40"}, layout="best-of", credit="half-credit")
    rows = [
        {
            "id": i,
            "prompt": f"q{i}",
            "chosen": [f"c{i}"],
            # an answer that is the right one's twin has its reward
            "rejected": [f"r{i}", f"s{i}", f"c{i}" if i < 20 else f"t{i}"],
            "subset": "a",
        }
        for i in range(40)
    ]
    (table,) = bench.run(suite, bench.rows(rows)).tables
    credit = []
    for row in rows:
        rewards = [reward(row["prompt"], x) for x in (*row["chosen"], *row["rejected"])]
        credit.append((rewards[0] == max(rewards)) / rewards.count(max(rewards)))
    score_ = table.subsets["a"].score
    assert score_.half_credit.value == pytest.approx(np.mean(credit))
    assert score_.strict.value == pytest.approx(np.mean([c == 1 for c in credit]))
    assert score_.ties == sum(0 < c < 1 for c in credit) > 0
    assert table.margins is None  # no pairs


def test_both_sorts_of_safety_rows_are_pooled(bench):
    domains = ["safety-refuse"] * 7 + ["safety-response"] * 3 + ["chat"] * 4
    rows = [
        {
            "id": i % 7,  # two files may use the same numbers
            "prompt": f"q{i}",
            "chosen": [f"c{i}{k}" for k in range(3)],
            "rejected": [f"r{i}{k}" for k in range(3)],
            "domain": domain,
        }
        for i, domain in enumerate(domains)
    ]
    (table,) = bench.run("rm-bench", bench.rows(rows), options=PARTIAL).tables
    won = [
        np.mean(
            [reward(r["prompt"], c) > reward(r["prompt"], x)
             for c, x in itertools.product(r["chosen"], r["rejected"])]
        )
        for r in rows
    ]  # fmt: skip
    expected_ = {"chat": np.mean(won[10:]), "safety": np.mean(won[:10])}
    assert values(table.subsets) == pytest.approx(expected_)
    assert table.overall.score.strict.value == pytest.approx(np.mean(list(expected_.values())))


def test_a_reward_model_beside_a_file_of_rewards(bench):
    rows = pair_rows()
    file = write(
        bench.folder / "file.jsonl",
        [{"id": r["id"], "subset": r["subset"], "rewards": [margin(r), 0.0]} for r in rows],
    )
    found = bench.run(bench.suite(SUBSETS), bench.rows(rows), rewards=[file])
    assert [table.reward_model for table in found.tables] == ["fake", "file"]
    assert [table.spec is None for table in found.tables] == [False, True]
    assert found.ranking.n == 6
    assert found.ranking.agreement.share[0, 1] == 1
    (pair,) = found.ranking.differences.pairs
    assert (pair.estimate.value, pair.p) == (0, 1)


# Reward models that compare two answers


def chances(first, second):
    """By the fake's definition: that `first` beats `second`, read first."""
    return 1 / (1 + math.exp(-((hashed(first) - hashed(second)) / 8 + 0.3)))


PREFERENCE = fake_spec("pairs", output="preference")


def judgebench_rows(n=50):
    return [
        {
            "pair_id": f"u{i}",
            "source": "livebench-math",
            "question": f"q{i}",
            "response_A": f"first {i}",
            "response_B": f"second {i}" if i else "first 0",
            "label": "A>B" if i % 3 else "B>A",
        }
        for i in range(n)
    ]


def test_judgebench_counts_the_verdicts_of_both_orders(bench):
    bench.model, rows = FakePairs(), judgebench_rows()
    (table,) = bench.run("judgebench-gpt-4o", bench.rows(rows), PREFERENCE, options=PARTIAL).tables
    counters, singles = [], []
    for row in rows:
        a, b = row["response_A"], row["response_B"]
        shown_a_first, shown_b_first = chances(a, b) > 0.5, not chances(b, a) > 0.5
        decisions = [shown_a_first, shown_b_first]  # that A is better
        label = row["label"] == "A>B"
        counters.append(sum(1 if said == label else -1 for said in decisions))
        singles.append(decisions[0] == label)
    score_ = table.overall.score
    contradictory = sum(counter == 0 for counter in counters)
    assert 5 < contradictory < 30  # the bias to the first answer shows
    assert (score_.n, score_.ties) == (50, contradictory)
    assert score_.strict.value == pytest.approx(np.mean([c > 0 for c in counters]))
    half = np.mean([(c > 0) + (c == 0) / 2 for c in counters])
    assert score_.half_credit.value == pytest.approx(half)
    assert table.views["single_game"].value == pytest.approx(np.mean(singles))
    assert table.margins is None


def test_elsewhere_both_orders_are_averaged(bench):
    bench.model, rows = FakePairs(), pair_rows()
    rows[0] = {**rows[0], "rejected": rows[0]["chosen"]}
    (table,) = bench.run(bench.suite(SUBSETS), bench.rows(rows), PREFERENCE).tables
    for row, found in zip(rows, table.rows, strict=True):
        c, r = row["chosen"], row["rejected"]
        mean = (chances(c, r) + 1 - chances(r, c)) / 2
        assert found.rewards == pytest.approx((mean, 1 - mean))
    right = [
        r["rejected"] != r["chosen"] and hashed(r["chosen"]) > hashed(r["rejected"]) for r in rows
    ]
    assert table.subsets["a"].score.strict.value == pytest.approx(np.mean(right[:4]))
    assert table.subsets["a"].score.ties == 1
    # an answer and itself are one pair, every other row two
    assert (bench.model.loads, bench.model.rows) == (1, 11)
    bench.run(bench.suite(SUBSETS), bench.rows(rows), PREFERENCE)
    assert bench.model.loads == 1


def test_an_answer_among_many_has_its_mean_chance(bench):
    bench.model = FakePairs()
    suite = bench.suite({"a": "rows = 5"}, layout="best-of")
    rows = [
        {"id": i, "prompt": "q", "chosen": [f"c{i}"], "rejected": [f"r{i}", f"s{i}"], "subset": "a"}
        for i in range(5)
    ]
    (table,) = bench.run(suite, bench.rows(rows), PREFERENCE).tables
    for row, found in zip(rows, table.rows, strict=True):
        answers = [*row["chosen"], *row["rejected"]]
        means = [
            np.mean([(chances(x, y) + 1 - chances(y, x)) / 2 for y in answers if y != x])
            for x in answers
        ]
        assert found.rewards == pytest.approx(means)
        assert found.swapped == ()


# Rows without a reward


def test_a_row_that_cannot_be_rendered_is_an_error_and_nothing_stands_in_for_it(bench):
    bench.model = FakeRewardModel(unrenderable=["Wrong 1!!"])
    rows = pair_rows()
    (table,) = bench.run(bench.suite(SUBSETS), bench.rows(rows)).tables
    score_ = table.subsets["a"].score
    right = [margin(row) > 0 for row in rows]
    assert (score_.n, score_.errors) == (3, 1)
    assert score_.strict.value == pytest.approx(np.mean([right[0], *right[2:4]]))
    assert (table.overall.score.n, table.overall.score.errors) == (5, 1)
    assert table.rows[1].problem == "no ids"
    assert all(math.isnan(x) for x in table.rows[1].rewards)
    assert any("1 row of 6 without a verdict: no ids" in notice for notice in table.notices)
    assert (table.signature.n, table.signature.errors) == (5, 1)


def test_a_subset_without_a_verdict_is_left_out_of_the_overall_and_named(bench):
    bench.model = FakeRewardModel(unrenderable=["Right 4", "Right 5"])
    rows = pair_rows()
    (table,) = bench.run(bench.suite(SUBSETS), bench.rows(rows)).tables
    assert table.subsets["b"].score.strict.value is None
    right = np.mean([margin(row) > 0 for row in rows[:4]])
    assert table.overall.score.strict.value == pytest.approx(right)
    assert any("no verdict at all on b" in notice for notice in table.notices)
    # and so is its length-only baseline: rows 0 to 2 are shorter right answers, 2 ties, 3 longer
    lengths = [(len(r["chosen"]), len(r["rejected"])) for r in rows[:4]]
    longest = np.mean([(c > r) + (c == r) / 2 for c, r in lengths])
    assert table.overall.length.longest.value == pytest.approx(longest)
    assert table.overall.length.shortest.value == pytest.approx(1 - longest)


def test_a_row_that_loses_tokens_is_counted(bench, monkeypatch):
    class Cutting(FakeRewardModel):
        def render(self, items):
            found = super().render(items)
            return [x._replace(cut=3 if b"Right 2" in bytes(x.ids) else 0) for x in found]

    bench.model = Cutting()
    suite, data = bench.suite(SUBSETS), bench.rows(pair_rows())
    for _ in range(2):  # scored, and from the store
        (table,) = bench.run(suite, data).tables
        assert [p.score.truncated for p in (*table.subsets.values(), table.overall)] == [1, 0, 1]
        assert (table.overall.score.n, table.rows[2].truncated) == (6, True)
        assert "1 row with tokens cut off" in table.notices
        assert table.signature.truncated == 1


def test_not_one_reward_is_an_error_that_says_why(bench):
    bench.model = FakeRewardModel(unrenderable=["Question"])
    with pytest.raises(MissingError, match=r"(?s)'fake' gives no row of own a reward.*no ids"):
        bench.run(bench.suite(SUBSETS), bench.rows(pair_rows()))


# What is refused, before a reward model is loaded

HOLED = {k: v for k, v in pair_rows()[0].items() if k != "rejected"}
BEST = {"id": 1, "prompt": "q", "chosen": ["c"], "rejected": ["r"], "subset": "a"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (pair_rows()[:5], "subset 'b' has 1 of 2"),
        ([*pair_rows(), {**pair_rows()[5], "id": 6}], "subset 'b' has 3 of 2"),
        ([*pair_rows()[:5], {**pair_rows()[5], "subset": "c"}], "names 'c', no subset"),
        (pair_rows([0, 1, 2, 1, 4, 5]), "'1' of subset 'a' is that of"),
        ([HOLED], "no rejected"),
        ([], "no rows"),
    ],
)
def test_rows_that_are_not_the_suites_stop_before_a_model_is_loaded(bench, rows, says):
    with pytest.raises(InputError, match=says):
        bench.run(bench.suite(SUBSETS), bench.rows(rows))
    assert bench.model.loads == 0


def test_rows_their_rule_cannot_judge_stop_before_a_model_is_loaded(bench):
    rows = bench.rows([{**BEST, "chosen": ["c", "d"]}])
    with pytest.raises(InputError, match="'1' has 2 right and 1 wrong answers"):
        bench.run(bench.suite({"a": "rows = 1"}, "best-of"), rows)
    rows = bench.rows([BEST])
    with pytest.raises(InputError, match="'1' is no id of a Ties row"):
        bench.run(bench.suite({"a": 'rows = 1, rule = "ties"'}, "best-of"), rows)
    assert bench.model.loads == 0


def test_files_of_rewards_are_read_before_a_model_is_loaded(bench):
    suite, data = bench.suite(SUBSETS), bench.rows(pair_rows())
    faulty = write(bench.folder / "faulty.jsonl", [{"id": 1, "subset": "a", "rewards": [1]}])
    fine = own_rows([(subset, [1.0, 0.0]) for subset in "aaaabb"])
    namesake = write(bench.folder / "fake.jsonl", fine)
    for files, says in (
        ([faulty], "list of two rewards"),
        ([namesake], "two reward models are called 'fake'"),
        ([str(bench.folder / "nobody.jsonl")], "no such file"),
    ):
        with pytest.raises(InputError, match=says):
            bench.run(suite, data, rewards=files)
    with pytest.raises(InputError, match="two reward models are called 'fake'"):
        bench.run(suite, data, fake_spec(), fake_spec())
    assert bench.model.loads == 0


def test_no_reward_model_at_all(bench):
    found = find_suite(bench.suite(SUBSETS), Workspace(bench.folder))
    with Store(bench.folder / "s.db") as store, pytest.raises(InputError, match="no reward model"):
        accuracy(found, [], store)


@pytest.mark.parametrize(
    "wrong", [{"tie": -1.0}, {"tie": math.nan}, {"level": 1.0}, {"level": 0.0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=r"level .*, tie .*, seed"):
        Options(**wrong)


# Scores by id, as OpenDataArena has them


def scores(path, margins):
    rows = [
        {"id": f"{i}:{side}", "score": x}
        for i, margin_ in margins.items()
        for side, x in (("chosen", margin_), ("rejected", 0.0))
    ]
    if path.suffix != ".csv":
        return write(path, rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "score"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


MARGINS = {0: 1.0, 1: -1.0, 2: 0.5, 3: 0.0, 4: 2.0, 5: -2.0}


@pytest.fixture
def join(bench):
    """A run on scores by id and the six pairs."""

    def run(margins, name="oda.jsonl", ids=range(6)):
        found = find_suite(bench.suite(SUBSETS), Workspace(bench.folder))
        data = bench.rows(pair_rows(ids))
        with Store(bench.folder / "store.db") as store:
            file = scores(bench.folder / name, margins)
            return accuracy(found, [], store, rewards=[file], data=data).tables[0]

    return run


def test_scores_are_joined_by_id_in_any_order(join):
    table = join(dict(reversed(MARGINS.items())))
    assert (table.reward_model, table.spec) == ("oda", None)
    assert [row.rewards for row in table.rows] == [(m, 0.0) for m in MARGINS.values()]
    assert values(table.subsets) == {"a": 2 / 4, "b": 1 / 2}
    assert table.overall.score.strict.value == pytest.approx(1 / 2)
    assert table.overall.score.half_credit.value == pytest.approx((2.5 / 4 + 1 / 2) / 2)
    assert table.subsets["a"].length is not None


def test_an_id_of_no_row_is_refused(join):
    with pytest.raises(InputError, match=r"2 scores .* belong to no answer .*7:chosen"):
        join({**MARGINS, 7: 1.0})


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_missing_and_unusable_scores_are_errors_of_their_rows(join, nothing):
    table = join({i: m for i, m in MARGINS.items() if i != 2} | {1: nothing}, "oda.csv")
    score_ = table.subsets["a"].score
    assert (score_.n, score_.errors, score_.strict.value) == (2, 2, 1 / 2)  # 0 right, 3 tied
    problems = [row.problem for row in table.rows if row.problem]
    assert problems[0].startswith("1:chosen: score is")
    assert problems[1] == "2:chosen: no score; 2:rejected: no score"
    assert (table.overall.score.n, table.overall.score.errors) == (4, 2)


def test_scores_that_are_all_unusable_are_refused(join):
    with pytest.raises(MissingError, match=r"(?s)no row .* a reward.*0:chosen: score is"):
        join(dict.fromkeys(MARGINS, math.inf), "oda.csv")


def test_one_id_for_two_rows_of_two_subsets_is_refused(join):
    with pytest.raises(InputError, match="'0' is the id of a row of 'a' and of another of 'b'"):
        join({i: MARGINS[i] for i in range(4)}, ids=[0, 1, 2, 3, 0, 1])

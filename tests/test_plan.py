"""Plans from known rewards, and what would settle an undecided gate."""

import json
import math
import re

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from statsmodels.stats.power import TTestPower

from evalkit.compare import compare
from evalkit.comparison import Options as CompareOptions
from evalkit.contrasts import compared as run_of
from evalkit.data import Message, Pair, item_key
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.gate import Policy, Rule, judge
from evalkit.pairing import TieRule
from evalkit.plan import AfterSignature, Options, Signature, plan, settle
from evalkit.plan.pilot import Pilot
from evalkit.report import document
from evalkit.report import plan as report
from evalkit.report.plan import after as report_after
from evalkit.report.plan.tables import explained, headline, sentence
from evalkit.statistics.planning import components, trade_off, variance_range
from evalkit.statistics.power import prompts_needed
from evalkit.store import Store, StoredReward
from evalkit.workspace import Workspace
from tests.fake_reward_model import fake_spec
from tests.test_gate import ABOVE_HALF, NO_LOSS, compared, differing, estimate, one, result, two

SPEC = fake_spec()  # its weights are nowhere: loading it would fail


class World:
    """A workspace with sets of completions, and a store with the rewards of some of them."""

    def __init__(self, folder):
        self.folder, self.store = folder, Store(folder / "store.db")
        (folder / "evalkit.toml").write_text("[defaults]\n")

    @property
    def workspace(self):
        return Workspace(self.folder)

    def path(self, name):
        return str(self.folder / f"{name}.jsonl")

    def messages(self, i):
        return (Message("user", f"q{i}"),)

    def write(self, name, sizes, prompts=None):
        """A set of so many completions of each prompt."""
        rows = [
            {
                "prompt_id": f"p{i:05}",
                "messages": [{"role": "user", "content": f"q{i}"}],
                "index": k,
                "completion": f"{name} {k}",
            }
            for i, size in zip(prompts or range(len(sizes)), sizes, strict=True)
            for k in range(size)
        ]
        with (self.folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def add(self, name, rewards):
        """A set and its rewards, a list for each prompt; None is not known."""
        self.write(name, [len(of) for of in rewards])
        self.keep(
            ((*self.messages(i), Message("assistant", f"{name} {k}")), reward)
            for i, of in enumerate(rewards)
            for k, reward in enumerate(of)
            if reward is not None
        )

    def keep(self, rewarded, spec=SPEC):
        rows = [StoredReward(item_key(x), float(r), 5, 0, "0" * 64) for x, r in rewarded]
        self.store.add(spec.fingerprint, spec.manifest, rows, tolerance=1e-5, provenance={})

    def plan(self, *names, refs=("ref",), spec=SPEC, **options):
        options = Options(**{"detect": 0.05, **options})
        checkpoints, references = ([self.path(n) for n in of] for of in (names, refs))
        return plan(checkpoints, references, spec, self.workspace, self.store, options=options)


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    yield found
    found.store.close()


def won(outcomes):
    """Rewards that get these outcomes against a reference of 0."""
    return (2 * np.asarray(outcomes, dtype=np.float64) - 1).tolist()


def zeros(n):
    return [[0.0]] * n


A = [1, 1, 0, 1, 0, 1, 1, 0.5, 1, 1]
B = [0, 1, 0, 1, 1, 0.5, 0, 0, 1, 0]


@pytest.fixture
def two_of_ten(world):
    for name, outcomes in (("a", A), ("b", B)):
        world.add(name, [[x] for x in won(outcomes)])
    world.add("ref", zeros(10))
    return world


# Before a run


@pytest.mark.parametrize("names", [("a",), ("b",), ("a", "b")])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.9, 0.95)])
def test_prompts_are_those_of_a_t_test_on_the_outcomes(two_of_ten, names, level, power):
    found = two_of_ten.plan(*names, detect=0.03, level=level, power=power)
    columns = {"a": np.array(A), "b": np.array(B)}
    d = columns[names[0]] - (columns["b"] if len(names) == 2 else 0.5)
    effect = 0.03 / d.std(ddof=1)
    wanted = TTestPower().solve_power(effect_size=effect, alpha=1 - level, power=power)
    (design,) = found.designs
    assert design.prompts == math.ceil(wanted)
    assert found.components.mean == pytest.approx(d.mean())
    assert design.fewest < design.prompts < design.most
    at_pilot = TTestPower().solve_power(nobs=10, alpha=1 - level, power=power)
    assert design.detectable == pytest.approx(at_pilot * d.std(ddof=1), rel=1e-4)
    assert found.grid[0] < design.prompts < found.grid[-1]
    assert list(design.curve) == sorted(design.curve, reverse=True)


def test_a_small_difference_does_not_read_as_none(two_of_ten):
    small, usual = (sentence(two_of_ten.plan("a", detect=d)) for d in (1e-4, 0.02))
    assert "were its win rate 50.010 % (or 49.990 %)" in small
    assert "were its win rate 52.0 % (or 48.0 %)" in usual


def test_one_checkpoint_has_a_ceiling_and_two_have_none(two_of_ten):
    single = two_of_ten.plan("a", detect=0.1)
    # of a coin that falls on one side in 60 %
    effect = 0.1 / math.sqrt(0.6 * 0.4)
    assert all(d.fewest <= d.prompts <= d.most <= single.ceiling for d in single.designs)
    assert single.ceiling == math.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8))
    assert two_of_ten.plan("a", "b").ceiling is None


def test_no_plan_asks_for_more_than_the_ceiling(world):
    world.add("a", [[x] for x in won([0, 1] * 3)])  # in so few the variance is above ¼
    world.add("ref", zeros(6))
    found = world.plan("a", detect=0.05)
    assert [d.prompts for d in found.designs] == [found.ceiling]


def test_the_range_of_a_plan_is_at_its_level(two_of_ten):
    (design,) = two_of_ten.plan("a", "b", level=0.8).designs
    sides = (np.array(of, dtype=float)[:, None] for of in (A, B))
    ends = variance_range(*sides, (1, 1), level=0.8)
    needed = [math.ceil(prompts_needed(0.05, v, level=0.8, power=0.8)) for v in ends]
    assert [design.fewest, design.most] == needed


def test_the_temperature_is_in_the_signature_of_a_plan(two_of_ten):
    found = two_of_ten.plan("a", metric="win_probability", temperature=2.0)
    assert found.signature.temperature == "2.0"


def test_a_completion_counts_against_all_of_a_reference_s(world):
    world.add("a", [[1.0, 3.0], [-1.0, 0.0], [2.0, 2.5]])
    world.add("ref", [[0.0, 2.0], [0.05, 0.0], [1.0, 9.0]])
    found = world.plan("a", ties=TieRule(margin=0.1))
    # by hand: prompt by prompt ½ and 1; 0 and ½; ½ and ½
    values = np.array([[0.5, 1.0], [0.0, 0.5], [0.5, 0.5]])
    assert found.components.a.completions == pytest.approx(values.var(axis=1, ddof=1).mean())
    assert found.components.mean == pytest.approx(values.mean() - 0.5)
    warm = world.plan("a", metric="win_probability", temperature=2.0)
    margins = np.array([[[1, -1], [3, 1]], [[-1.05, -1], [-0.05, 0]], [[1, -7], [1.5, -6.5]]])
    assert warm.components.mean == pytest.approx(expit(margins / 2).mean() - 0.5)


def test_a_pair_preference_model_s_probabilities_are_averaged_over_both_orders(world):
    spec = fake_spec("pairs", output="preference")
    first = np.array([[[0.9, 0.6], [0.3, 0.4]], [[0.2, 0.7], [0.8, 0.55]]])  # prompt, ours, theirs
    second = np.array([[[0.7, 0.2], [0.5, 0.4]], [[0.2, 0.5], [0.8, 0.35]]])
    world.write("a", [2, 2])
    world.write("ref", [2, 2])
    rewarded = []
    for (i, k, m), p in np.ndenumerate(first):
        ours, theirs = f"a {k}", f"ref {m}"
        rewarded.append((Pair(world.messages(i), ours, theirs), logit(p)))
        rewarded.append((Pair(world.messages(i), theirs, ours), logit(1 - second[i, k, m])))
    world.keep(rewarded, spec)
    probability = (first + second) / 2
    found = world.plan("a", spec=spec, metric="win_probability")
    assert found.components.mean == pytest.approx(probability.mean() - 0.5)
    values = (probability > 0.5).mean(axis=2)  # none is level
    found = world.plan("a", spec=spec)
    assert found.components.a.completions == pytest.approx(values.var(axis=1, ddof=1).mean())
    with pytest.raises(InputError, match="no temperature"):
        world.plan("a", spec=spec, temperature=2.0)
    world.write("a", [3, 2])
    with pytest.raises(MissingError, match="4 rewards") as missing:
        world.plan("a", spec=spec)
    assert "a against ref: 4 of 20" in str(missing.value)


def graded(rng, prompts, completions, loss):
    """Outcomes of two checkpoints: win chances differ by prompt, the second's less by `loss`."""
    chance = rng.beta(1.5, 1.5, prompts) * 0.6 + 0.2
    other = chance + rng.uniform(-0.1, 0.1, prompts) - loss
    return [rng.binomial(1, p[:, None], (prompts, completions)).astype(float)
            for p in (chance, other)]  # fmt: skip


@pytest.mark.parametrize("trials", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_a_planned_run_finds_the_planted_difference_in_80_percent(world, k, trials):
    rng, loss = np.random.default_rng(8), 0.06
    for name, of in zip("ab", graded(rng, 2_500, 3, loss), strict=True):
        world.add(name, won(of))
    world.add("ref", zeros(2_500))
    (design,) = world.plan("a", "b", detect=loss, completions=(k,)).designs
    run = graded(rng, trials * design.prompts, k, loss)
    a, b = (side.mean(axis=1).reshape(trials, -1) for side in run)
    found = float(np.mean(stats.ttest_rel(a, b, axis=1).pvalue <= 0.05))
    # 4 errors of the simulation, and what 2,500 prompts leave open: ±3 % of n is ±1.2 % of power
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / trials) + 0.02)


@pytest.mark.parametrize("trials", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_so_does_one_checkpoint_over_several_references(world, trials):
    """Planned for 3 references from a pilot with 2, of which each has its own luck on a prompt."""
    rng, gain = np.random.default_rng(9), 0.05

    def run(prompts, references, completions):
        chance = 0.5 + gain + rng.uniform(-0.2, 0.2, (prompts, 1, 1))
        chance = chance + rng.uniform(-0.2, 0.2, (prompts, references, 1))
        return rng.random((prompts, references, completions)) < chance

    pilot = Pilot((run(4_000, 2, 2).astype(float),), (2,), 0, 0)
    found = components(*pilot.sides())
    (design,) = trade_off(found, gain, completions=[2], references=[3])
    values = run(trials * design.prompts, 3, 2).mean(axis=(1, 2)).reshape(trials, -1)
    power = float(np.mean(stats.ttest_1samp(values, 0.5, axis=1).pvalue <= 0.05))
    assert power == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / trials) + 0.02)


@pytest.fixture
def rich(world):
    """A pilot of 60 prompts with three completions and two references."""
    rng = np.random.default_rng(10)
    skill = rng.normal(size=(60, 1))
    world.add("a", (skill + rng.normal(size=(60, 3))).tolist())
    world.add("b", (skill + rng.normal(size=(60, 3)) - 0.4).tolist())
    for name in ("ref", "ref2"):
        world.add(name, (skill + rng.normal(size=(60, 1))).tolist())
    return world


def test_the_cheapest_design_is_marked_and_what_it_costs_is_counted(rich):
    found = rich.plan("a", "b", refs=("ref", "ref2"), completions=(1, 3), references=(1, 2, 3))
    assert [(d.references, d.completions) for d in found.designs] == [
        (r, k) for r in (1, 2, 3) for k in (1, 3)
    ]
    for d in found.designs:
        assert d.generated == 2 * d.prompts * d.completions
        # two references have answered 60 prompts
        there = min(d.references, 2) * min(d.prompts, 60)
        assert d.answers == d.references * d.prompts - there
        assert found.cheapest.total <= d.total
    for one_k, three in zip(found.designs[::2], found.designs[1::2], strict=True):
        assert three.prompts < one_k.prompts
    assert report.to_text(found).count("cheapest") == 1
    assert json.loads(report.to_json(found))["designs"][found.designs.index(found.cheapest)][
        "cheapest"
    ]


def test_what_is_planned_with_is_what_the_pilot_tells(rich):
    both = rich.plan("a", refs=("ref", "ref2"))
    assert (both.options.completions, both.options.references) == ((1, 2, 4, 8), (1, 2, 4))
    assert any("differ on a prompt as these do" in notice for notice in both.notices)
    alone = rich.plan("ref2", refs=("ref",))
    assert (alone.options.completions, alone.options.references) == ((1,), (1,))
    said = " ".join(alone.notices)
    assert "one completion a prompt says nothing" in said
    assert "one reference says nothing" in said
    with pytest.raises(InputError, match="2 completions a prompt: the pilot has one"):
        rich.plan("ref2", completions=(1, 2))
    with pytest.raises(InputError, match="2 completions a prompt: the pilot has one"):
        rich.plan("a", "ref2", completions=(2,))
    with pytest.raises(InputError, match="4 references: the pilot has one"):
        rich.plan("a", references=(4,))


def test_uneven_completions_are_cut_to_the_fewest_and_that_is_said(world):
    rng = np.random.default_rng(11)
    rewards = rng.normal(size=(30, 3)).tolist()
    world.add("a", [of[: 2 + i % 2] for i, of in enumerate(rewards)])
    world.add("even", [of[:2] for of in rewards])
    world.add("ref", zeros(30))
    found, even = world.plan("a"), world.plan("even")
    assert found.completions == (2,)
    assert found.components == even.components
    assert "a: prompts have 2 to 3 completions, of which the first 2 are the pilot" in found.notices


def test_missing_rewards_stop_the_plan_and_name_the_command(two_of_ten):
    two_of_ten.add("c", [[None if i < 3 else x] for i, x in enumerate(won(A))])
    with pytest.raises(MissingError, match="3 rewards of 'fake' are not") as found:
        two_of_ten.plan("c")
    assert found.value.exit_code == 6
    assert found.value.fix.startswith(f"evalkit compare --model {two_of_ten.path('c')} --ref ")
    assert "c: 3 of 10" in str(found.value)
    dropped = two_of_ten.plan("c", missing="drop")
    assert dropped.prompts == 7
    assert dropped.signature.left_out == 3
    assert "3 of 10 prompts are not in the pilot" in dropped.notices
    assert dropped.components.mean == pytest.approx(np.mean(A[3:]) - 0.5)


def test_a_prompt_with_one_unknown_reward_of_several_is_left_out(world):
    world.add("a", [[1.0, 3.0], [-1.0, None], [2.0, 2.5], [0.5, -1.0]])
    world.add("ref", zeros(4))
    found = world.plan("a", missing="drop")
    assert (found.prompts, found.components.mean) == (3, pytest.approx(2.5 / 3 - 0.5))


def test_unmatched_prompts_are_refused_or_left_out(two_of_ten):
    two_of_ten.write("ref", [1] * 8, range(8))
    with pytest.raises(InputError, match="2 prompts without a completion on one side"):
        two_of_ten.plan("a", "b")
    assert two_of_ten.plan("a", "b", missing="drop").prompts == 8
    two_of_ten.write("ref", [1], [3])
    with pytest.raises(InputError, match="a pilot of 1 prompt says nothing"):
        two_of_ten.plan("a", missing="drop")


def test_a_small_or_even_pilot_is_said_to_be_one(two_of_ten):
    found = two_of_ten.plan("a", "b")
    assert "a pilot of 10 prompts knows the spread poorly: mind the range" in found.notices
    assert "the two differ on 6 prompts only: mind the range" in found.notices


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"detect": 0.0}, "a difference of 0.0"),
        ({"detect": 1.0}, "a difference of 1.0"),
        ({"detect": math.nan}, "a difference of nan"),
        ({"detect": -0.02}, "a difference of -0.02"),
        ({"level": 1.0}, "level 1.0"),
        ({"power": 1.0}, "power 1.0"),
        ({"power": 0.04}, "power 0.04"),
        ({"completions": (1, 0)}, "a plan with 0 completions"),
        ({"references": (-1,)}, "a plan with -1 references"),
        ({"ties": TieRule(drop=True)}, "dropped ties"),
    ],
)
def test_choices_out_of_range_are_refused(changed, said):
    with pytest.raises(InputError, match=said):
        Options(**{"detect": 0.02, **changed})


def test_questions_without_an_answer_are_refused(two_of_ten):
    for names, said in (((), "0 checkpoints"), (("a", "b", "ref"), "3 checkpoints"),
                        (("a", "a"), "named twice")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            two_of_ten.plan(*names)
    with pytest.raises(InputError, match="above one half"):
        two_of_ten.plan("a", detect=0.5)
    assert two_of_ten.plan("a", "b", detect=0.5).designs
    with pytest.raises(InputError, match="no feasible number"):
        two_of_ten.plan("a", detect=1e-7)
    with pytest.raises(InputError, match="has no spread"):
        two_of_ten.plan("ref", refs=("a",), ties=TieRule(margin=9.0))
    relative = fake_spec(output="relative")
    with pytest.raises(InputError, match="state no probability"):
        two_of_ten.plan("a", spec=relative, metric="win_probability")


def test_every_output_says_the_same_and_is_the_same_again(rich):
    found, again = (rich.plan("a", "b", refs=("ref", "ref2"), detect=0.021) for _ in range(2))
    assert Signature.parse(str(found.signature)) == found.signature
    answer = sentence(found)
    assert "2.1 points of win rate apart" in answer
    assert f"{found.cheapest.prompts:,} prompts [" in answer
    for suffix, form in report.WRITERS.items():
        data = form(found)
        assert data == form(again)
        if suffix in {".md", ".html", ".svg"}:
            assert f"{found.cheapest.prompts:,}" in data.decode()
    read = json.loads(report.to_json(found))
    assert read["signature"] == str(found.signature)
    assert len(read["grid"]) == len(read["designs"][0]["curve"])
    assert report.to_text(found).startswith(answer)


def test_a_hostile_name_stays_text(world):
    name = "<script>alert(1)<\u202eb>|x"
    world.write(name, [1] * 30)
    world.add("ref", zeros(30))
    world.keep(
        ((*world.messages(i), Message("assistant", f"{name} 0")), float(i % 3 - 1))
        for i in range(30)
    )
    found = world.plan(name)
    assert b"<script>" not in report.to_html(found)
    assert b"|x" not in report.to_markdown(found).replace(b"\\|x", b"")
    assert "\u202e" not in report.to_text(found)
    assert re.search(r"checkpoints:%3Cscript", str(found.signature))


# After a run


@pytest.fixture
def settled(world):
    def of(saved, *rules, **policy):
        policy = Policy(rules or (ABOVE_HALF,), **policy)
        return settle(saved, policy, world.workspace, world.store)

    return of


def test_an_interval_over_the_limit_is_explained_by_the_gate_s_own_numbers(settled):
    saved = one(estimate(0.53, method="logit-t"))
    found = settled(saved)
    (u,) = found.undecided
    (j,) = judge(saved, Policy((ABOVE_HALF,))).judged
    assert u.judged == j
    assert (u.cause, u.feasible, u.instead) == ("interval", True, ())
    assert (u.distance, u.half_width) == pytest.approx((0.03, 0.05))
    assert headline(found) == f"1 of 1 rule inconclusive: {j.n_needed:,} prompts would settle it."
    why, prompts, limits = explained(u)
    assert "3.0 points from the limit" in why
    assert "reaches 5.0 points that way: [48.0 %, 58.0 %]" in why
    assert f"about {j.n_needed:,} prompts would decide in 80 % of runs" in prompts
    assert "a bound up to 48.0 % (passes) or a bound above 58.0 % (fails)" in limits


def test_a_limit_that_was_said_to_be_decidable_is_decided(settled):
    saved = one(estimate(0.53, method="t"))
    (u,) = settled(saved).undecided
    low, high = u.judged.low, u.judged.high
    for bound, state in ((low, "pass"), (low + 1e-6, "inconclusive"), (high, "inconclusive"),
                         (high + 1e-6, "fail")):  # fmt: skip
        assert judge(saved, Policy((Rule("win_rate", bound=bound),))).state == state
    saved = two(estimate(-0.02, 0.024))
    (u,) = settled(saved, NO_LOSS).undecided
    assert "a margin above 4.4 points (passes)" in explained(u)[2]
    for margin, state in ((0.0439, "inconclusive"), (0.0441, "pass")):
        rule = Rule("win_rate", margin=margin, against="old")
        assert judge(saved, Policy((rule,))).state == state
    saved = two(estimate(-0.04, 0.024))
    (u,) = settled(saved, NO_LOSS).undecided
    assert "(passes) or a margin below 1.6 points (fails)" in explained(u)[2]
    for margin, state in ((0.0159, "fail"), (0.0161, "inconclusive")):
        rule = Rule("win_rate", margin=margin, against="old")
        assert judge(saved, Policy((rule,))).state == state


def test_a_value_at_the_limit_is_settled_by_no_number_of_prompts(settled):
    (at,) = settled(one(estimate(0.5))).undecided
    assert (at.feasible, at.judged.n_needed) == (False, None)
    assert (
        "no number of prompts can be named that would settle it: the value is" in explained(at)[1]
    )
    near = settled(one(estimate(0.501)))
    assert near.undecided[0].judged.n_needed > 40_000
    assert not near.undecided[0].feasible
    assert "so that no feasible number settles it" in explained(near.undecided[0])[1]
    assert headline(near) == "1 of 1 rule inconclusive: prompts would settle 0 of 1."


def test_prompts_left_out_are_what_is_to_be_mended(settled):
    lacking = {"missing_in_checkpoint": ["p1"], "missing_in_reference": [], "unscored": {"p2": "x"}}
    (u,) = settled(one(estimate(0.6), unmatched=lacking)).undecided
    assert (u.cause, u.judged.left_out) == ("left out", 2)
    (line,) = explained(u)
    assert "were it not for 2 prompts left out" in line
    (both,) = settled(one(estimate(0.53), unmatched=lacking)).undecided
    assert both.cause == "interval"
    said = " ".join(explained(both))
    assert "(passes)" not in said  # the gate passes nothing that leaves prompts out
    assert "above 58.0 % (fails)" in said
    assert "and none left out (2 are now)" in said


def test_few_deciding_prompts_and_no_interval_have_their_own_reasons(settled):
    (few,) = settled(two(estimate(-0.01, 0.004), deciding=4), NO_LOSS).undecided
    assert few.cause == "few deciding"
    assert "the two differ on 4 of 400 prompts only" in explained(few)[0]
    (none,) = settled(one(estimate(0.6, None))).undecided
    assert (none.cause, none.half_width) == ("no interval", None)
    assert "give no interval" in explained(none)[0]
    (undefined,) = settled(one(estimate(None, None))).undecided
    assert undefined.distance is None
    assert explained(undefined)


def test_where_nothing_is_undecided_nothing_is_to_settle(settled):
    passed = settled(one(estimate(0.6)))
    assert passed.undecided == ()
    assert headline(passed) == "Nothing is to settle: 1 of 1 rule decided."
    failed = settled(one(estimate(0.4)))
    assert headline(failed).endswith("; 1 of them surely not met.")


def test_rules_on_rewards_are_in_their_own_units(settled):
    (u,) = settled(one(None), Rule("margin", bound=0.3)).undecided
    assert "the value is 0.1 from the limit" in explained(u)[0]
    assert "[0.1, 0.7]" in explained(u)[0]


def test_every_output_of_a_settlement_says_the_same(settled):
    old, new = compared("old"), compared("new|*", estimate(0.53))
    saved = result(old, new, differences=[differing("new|*", "old", estimate(-0.02, 0.024))])
    rules = (Rule("win_rate", bound=0.5, checkpoint="new|*"), NO_LOSS)
    found = settled(saved, *rules)
    read = json.loads(report_after.to_json(found))
    needed = [u.judged.n_needed for u in found.undecided]
    assert [u["prompts"] for u in read["undecided"]] == needed
    for text in (report_after.to_text(found), report_after.to_markdown(found).decode()):
        for n in needed:
            assert f"about {n:,} prompts would decide" in text
    assert "new|*" not in report_after.to_markdown(found).decode().replace("new\\|\\*", "")
    assert read["signature"] == str(found.signature)
    assert AfterSignature.parse(read["signature"]) == found.signature
    assert settled(saved, *rules, level=0.9).signature != found.signature


@pytest.mark.parametrize("saved", [{}, {"schema_version": 1}, {**one(None), "schema_version": 2}])
def test_what_is_no_result_is_refused(settled, saved):
    with pytest.raises(InputError):
        settled(saved)


def saved_of(world, *names, **options):
    options, refs = CompareOptions(**options), [world.path("ref")]
    found = compare(
        [world.path(n) for n in names], refs, SPEC, world.workspace, world.store, options=options
    )
    return json.loads(document.to_json(run_of(found)))


def under_names(world):
    """The sets under names that a result can be traced back to."""
    lines = [f'[{table}.{name}]\npath = "{name}.jsonl"' for table, name in
             (("checkpoints", "a"), ("checkpoints", "b"), ("refs", "ref"))]  # fmt: skip
    (world.folder / "evalkit.toml").write_text("\n".join(lines))
    return world


@pytest.fixture
def named(rich):
    return under_names(rich)


def margins_of(world, name):
    """(60, K) from the store, by hand."""
    rewards = {}
    for which in (name, "ref"):
        rows = [*map(json.loads, (world.folder / f"{which}.jsonl").read_text().splitlines())]
        keys = [
            item_key((Message("user", r["messages"][0]["content"]),
                      Message("assistant", r["completion"])))
            for r in rows
        ]  # fmt: skip
        known = world.store.lookup(SPEC.fingerprint, keys)
        rewards[which] = np.array([known[key].reward for key in keys]).reshape(60, -1)
    return rewards[name] - rewards["ref"]


def outcomes_of(world, name):
    return (margins_of(world, name) > 0).astype(float)


def test_more_completions_instead_of_prompts_cut_their_own_part(named):
    saved = saved_of(named, "a", "b")
    rule = Rule("win_rate", margin=0.01, against="a", checkpoint="b")
    bound = Rule("win_rate", bound=saved["comparisons"][0]["estimates"]["win_rate"]["value"] - 0.03,
                 checkpoint="a")  # fmt: skip
    found = settle(saved, Policy((rule, bound)), named.workspace, named.store)
    a, b = outcomes_of(named, "a"), outcomes_of(named, "b")
    columns = {"b": (b.mean(axis=1) - a.mean(axis=1), [a, b]), "a": (a.mean(axis=1), [a])}
    assert len(found.undecided) == 2
    for u in found.undecided:
        mean, sides = columns[u.judged.checkpoint]
        within = sum(side.var(axis=1, ddof=1).mean() for side in sides)
        between = mean.var(ddof=1) - within / 3
        assert [x.completions for x in u.instead] == [4, 8, 16]
        for x in u.instead:
            share = (between + within / x.completions) / mean.var(ddof=1)
            assert x.prompts == math.ceil(u.judged.n_needed * share)
        assert u.floor == math.ceil(u.judged.n_needed * between / mean.var(ddof=1))
        assert u.judged.n_needed > u.instead[0].prompts > u.instead[-1].prompts > u.floor
        (line,) = [x for x in explained(u) if "more completions each" in x] or [""]
        assert bool(line) == u.feasible


def undecided_by(world, rule, saved):
    (u,) = settle(saved, Policy((rule,)), world.workspace, world.store).undecided
    assert u.judged.n_needed
    return u


def test_more_completions_are_counted_at_the_result_s_own_temperature(named):
    saved = saved_of(named, "a", temperature=3.0)
    value = saved["comparisons"][0]["estimates"]["win_probability"]["value"]
    u = undecided_by(named, Rule("win_probability", bound=value - 0.01), saved)
    p = expit(margins_of(named, "a") / 3)
    within, mean = p.var(axis=1, ddof=1).mean(), p.mean(axis=1)
    between = mean.var(ddof=1) - within / 3
    shares = [(between + within / k) / mean.var(ddof=1) for k in (4, 8, 16)]
    assert [x.prompts for x in u.instead] == [math.ceil(u.judged.n_needed * s) for s in shares]


@pytest.mark.parametrize("most", [2, 3])
def test_uneven_completions_do_not_tell_what_more_would_do(world, most):
    """The gate goes by all of them, the components by as many as each prompt has."""
    rng = np.random.default_rng(12)
    world.add("a", [rng.normal(0.2, 1, most if i % 2 else 2).tolist() for i in range(60)])
    world.add("ref", zeros(60))
    saved = saved_of(under_names(world), "a")
    value = saved["comparisons"][0]["estimates"]["win_rate"]["value"]
    u = undecided_by(world, Rule("win_rate", bound=value - 0.03), saved)
    assert (len(u.instead), u.floor is None) == ((3, False) if most == 2 else (0, True))


@pytest.mark.parametrize("deciding", [9, 10])
def test_where_few_prompts_decide_their_variance_tells_nothing(world, deciding):
    outcomes = np.random.default_rng(13).integers(0, 2, (60, 2))
    world.add("a", won(outcomes))
    outcomes[:deciding, 0] = 1 - outcomes[:deciding, 0]
    world.add("b", won(outcomes))
    world.add("ref", zeros(60))
    saved = saved_of(under_names(world), "a", "b")
    rule = Rule("win_rate", margin=0.05, against="a", checkpoint="b")
    u = undecided_by(world, rule, saved)
    assert (u.judged.deciding, len(u.instead)) == (deciding, 0 if deciding < 10 else 3)


def test_what_is_not_at_hand_or_changed_is_not_guessed(named):
    saved = saved_of(named, "a")
    value = saved["comparisons"][0]["estimates"]["win_rate"]["value"]
    policy = Policy((Rule("win_rate", bound=value - 0.03),))

    def instead(result):
        (u,) = settle(result, policy, named.workspace, named.store).undecided
        assert u.judged.n_needed
        return u.instead

    assert instead(saved)
    strange = {**saved, "comparisons": [{**saved["comparisons"][0], "reward_model": None}]}
    assert instead(strange) == ()
    strange["comparisons"][0] |= {"reward_model": {"fingerprint": "0" * 64}}
    assert instead(strange) == ()
    older = {**saved, "comparisons": [{**saved["comparisons"][0], "signature": "compare|n:3"}]}
    assert instead(older) == ()
    named.write("a", [3] * 59 + [2])  # another set of that name
    assert instead(saved) == ()
    (changed,) = settle(saved, policy, named.workspace, named.store).undecided
    assert "'a' is not what it was when the result was written" in explained(changed)[-1]
    (named.folder / "a.jsonl").unlink()
    assert instead(saved) == ()


def test_nothing_is_offered_instead_where_whole_subsets_are_the_unit(named):
    for name in ("a", "b", "ref"):
        path = named.folder / f"{name}.jsonl"
        rows = [*map(json.loads, path.read_text().splitlines())]
        said = ({**row, "subset": f"s{int(row['prompt_id'][1:]) % 12}"} for row in rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in said))

    def undecided(cluster_by):
        saved = saved_of(named, "a", "b", cluster_by=cluster_by)
        value = saved["comparisons"][0]["estimates"]["win_rate"]["value"]
        bound = Rule("win_rate", bound=value - 0.03, checkpoint="a")
        rules = (bound, Rule("win_rate", margin=0.01, against="a", checkpoint="b"))
        return settle(saved, Policy(rules), named.workspace, named.store).undecided

    assert [len(u.instead) for u in undecided("prompt")] == [3, 3]
    assert [(u.instead, u.floor) for u in undecided("subset")] == [((), None)] * 2


def test_a_set_that_was_named_by_its_path_is_said_not_to_be_at_hand(rich):
    saved = saved_of(rich, "a")
    value = saved["comparisons"][0]["estimates"]["win_rate"]["value"]
    policy = Policy((Rule("win_rate", bound=value - 0.03),))
    (u,) = settle(saved, policy, rich.workspace, rich.store).undecided
    assert (u.instead, u.floor) == ((), None)
    assert re.search("completions a prompt .* not told: .*'(a|ref)' not found", explained(u)[-1])


def test_an_alarm_that_left_out_prompts_hide_and_a_first_checkpoint_are_explained(settled):
    run = {
        "schema_version": 1, "reference": "ref", "metric": "win_rate", "monitors": [],
        "curves": [{
            "reward_model": "ours#0", "alarms": [], "left_out": ["p1", "p2"], "differences": [],
            "checkpoints": [{"checkpoint": "new", "step": 1, "estimate": estimate(0.6)}],
        }],
    }  # fmt: skip
    previous = Rule("win_rate", margin=0.03, against="previous")
    first, alarm = settled(run, previous, Rule("alarm")).undecided
    assert (first.cause, alarm.cause) == ("nothing earlier", "left out")
    assert explained(first) == ["no earlier checkpoint yet: the next one can be held against this"]
    assert "were it not for 2 prompts left out" in explained(alarm)[0]


def test_a_damaged_pack_is_told_and_not_passed_over(named, monkeypatch):
    saved = saved_of(named, "a")

    def damaged(*_, **__):
        raise IntegrityError("the reward pack is damaged")

    monkeypatch.setattr(Store, "lookup", damaged)
    value = saved["comparisons"][0]["estimates"]["win_rate"]["value"]
    with pytest.raises(IntegrityError):
        settle(saved, Policy((Rule("win_rate", bound=value - 0.03),)), named.workspace, named.store)

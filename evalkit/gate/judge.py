"""A saved result before a policy: one verdict, of which every output is a projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from evalkit.gate.policy import ALARM, PREVIOUS, RATES, Policy, Rule
from evalkit.gate.saved import (
    Difference,
    SavedResult,
    alarm_is_possible,
    check_answerable,
    saved_alarms,
    saved_left_out,
    saved_results,
)
from evalkit.statistics.few_deciding import Differing, LossRule, prompts_to_decide_few
from evalkit.statistics.gates import (
    FEW_DECIDING,
    Decision,
    Interval,
    State,
    at_level,
    hoeffding,
    prompts_to_decide,
    regression_state,
    shared_level,
    threshold_state,
)
from evalkit.text import count, did_you_mean, listing

EXIT_CODES: Mapping[State, int] = {"pass": 0, "fail": 3, "inconclusive": 4}
SEVERITY: tuple[State, ...] = ("pass", "inconclusive", "fail")
POWER = 0.8
SHOWN = 8  # names of a result, where one is not among them


@dataclass(frozen=True, slots=True)
class Judged:
    """One rule on one checkpoint and reference.

    Attributes:
        name: What was asked, on one line, such as `win_rate of a against b ≥ 0.5`; names in it are
            the result's own and may hold anything.
        rule: The rule.
        checkpoint: Under test.
        baseline: For a margin, whom it is held against; else empty.
        reference: Of the comparison.
        reward_model: Of a tracked run's rule; else empty.
        state: Its answer.
        value: The metric, or the difference to the baseline, or how many alarms; None where
            undefined or absent.
        low: Lower end, at the policy's level, by which a rule passes.
        high: Upper end, by which it fails, at the level that all rules share (see
            `evalkit.statistics.gates`).
        limit: The bound, or minus the margin; of alarms 0.
        n: Prompts behind the value.
        left_out: Prompts that could not be paired or scored, on either side of a margin.
        deciding: For a margin, prompts on which the two differ; else None.
        n_needed: If inconclusive, prompts on which a new run would decide with a chance of 80 %
            were the present value and spread true; None if none can be told.
        reason: Why, on one line.
    """

    name: str
    rule: Rule
    checkpoint: str
    baseline: str
    reference: str
    reward_model: str
    state: State
    value: float | None
    low: float | None
    high: float | None
    limit: float
    n: int
    left_out: int
    deciding: int | None
    n_needed: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says, once; text, JSON, Markdown, JUnit and the exit code are read off it.

    Attributes:
        judged: At least one.
        level: Of the policy.
        inconclusive: What an inconclusive gate means for the exit code.
    """

    judged: tuple[Judged, ...]
    level: float
    inconclusive: Literal["pass", "fail"]

    @property
    def state(self) -> State:
        """The worst of the rules': fail, else inconclusive, else pass."""
        return max((j.state for j in self.judged), key=SEVERITY.index)

    @property
    def exit_code(self) -> int:
        """0 passed, 3 failed, 4 inconclusive where the policy says that fails."""
        if self.state == "inconclusive" and self.inconclusive == "pass":
            return 0
        return EXIT_CODES[self.state]

    def number_of(self, state: State) -> int:
        """How many rules came out so."""
        return sum(j.state == state for j in self.judged)


class _Question(NamedTuple):
    """A rule on one checkpoint, reference, reward model and, for a margin, baseline."""

    rule: Rule
    checkpoint: str
    reference: str
    baseline: str
    reward_model: str

    @property
    def limit(self) -> float:
        """The bound, or minus the margin."""
        r = self.rule
        return (r.bound or 0.0) if r.margin is None else -r.margin

    @property
    def name(self) -> str:
        """What is asked, on one line."""
        r = self.rule
        if r.metric == ALARM:
            return "no alarm of the run"
        subset = f" on {r.subset}" if r.subset else ""
        minus = f" − {self.baseline}" if self.baseline else ""
        limit = f"{'≥' if r.margin is None else '>'} {self.limit:g}"
        strict = " (strict)" if r.strict else ""
        who = self.checkpoint or "no checkpoint"
        under = f" under {self.reward_model}" if self.reward_model else ""
        return f"{r.metric} of {who}{minus} against {self.reference}{under}{subset} {limit}{strict}"


def judge(result: Mapping[str, Any], policy: Policy) -> Verdict:
    """Hold a saved result of `evalkit compare` or `evalkit track` against a policy.

    Every rule is asked of every checkpoint under test and every reference: of a comparison, all
    checkpoints that are no rule's baseline; of a run, the newest, under each reward model that the
    rule is about. What a rule names and the result lacks fails; the first checkpoint of a run has
    none before it, which decides nothing. A result that left prompts out, or has no interval, does
    not pass; at most it is inconclusive, an alarm that prompts left out may have hidden included.
    Alarms of a run have their own error and share none.

    Args:
        result: The JSON that `evalkit compare -o result.json` wrote, or `evalkit track`.
        policy: What it must show.

    Raises:
        InputError: The result is of another command or schema, or malformed, or a rule is about
            what no result of its kind has: no verdict at all.
    """
    found = saved_results(result)
    check_answerable(result, policy.rules)
    questions = [
        (saved, q) for saved in found for q in _questions(saved, _about(saved, found, policy.rules))
    ]
    shared = shared_level(policy.level, len(questions))
    judged = [_judged(saved, q, policy.level, shared) for saved, q in questions]
    judged += [_quiet(result, rule) for rule in policy.rules if rule.metric == ALARM]
    return Verdict(tuple(judged), policy.level, policy.inconclusive)


def _about(saved: SavedResult, results: Sequence[SavedResult], rules: Sequence[Rule]) -> list[Rule]:
    """The rules under a reward model; under the first also those on one there is not, to fail."""
    models = [one.model for one in results]
    lost = {r.reward_model for r in rules} - {"", *models} if saved is results[0] else set()
    asked = {"", saved.model, *lost}
    return [r for r in rules if r.metric != ALARM and r.reward_model in asked]


def _questions(saved: SavedResult, rules: Sequence[Rule]) -> Iterator[_Question]:
    order = saved.checkpoints
    baselines = {rule.against for rule in rules if rule.margin is not None}
    if PREVIOUS in baselines and not saved.is_first(order[-1]):
        baselines.add(order[0])
    under_test = [name for name in saved.to_test if name not in baselines]
    before = dict(zip(order[1:], order, strict=False))
    for rule in rules:
        asked = rule.reward_model
        under = saved.reward_model if asked in {"", saved.model} else asked
        # with nothing under test the question is asked all the same, and fails
        for checkpoint in [rule.checkpoint] if rule.checkpoint else under_test or [""]:
            against = before.get(checkpoint, PREVIOUS) if rule.against == PREVIOUS else rule.against
            for reference in [rule.reference] if rule.reference else saved.references:
                baseline = "" if rule.margin is None else against
                yield _Question(rule, checkpoint, reference, baseline, under)


def _quiet(result: Mapping[str, Any], rule: Rule) -> Judged:
    """Whether a run raises no alarm: its value is how many are raised, at how many checkpoints."""
    raised = saved_alarms(result)
    possible = alarm_is_possible(result)
    quiet = "none is raised" if possible else "none is possible yet, with so few checkpoints"
    decision = Decision("fail" if raised else "pass", "; ".join(raised) or quiet)
    q = _Question(rule, "", "", "", "")
    judged = _answer(q, decision, None, left_out=saved_left_out(result))
    return replace(judged, value=float(len(raised)))


def _judged(saved: SavedResult, q: _Question, level: float, shared: float) -> Judged:
    begun = q.baseline == PREVIOUS and saved.is_first(q.checkpoint)
    if begun and not _absent(saved, q._replace(baseline="")):
        return _answer(q, Decision("inconclusive", "no earlier checkpoint yet"), None)
    found = _found(saved, q)
    if isinstance(found, str):
        return _answer(q, Decision("fail", found), None)
    sides = [name for name in (q.checkpoint, q.baseline) if name]
    left_out = len({i for side in sides for i in saved.left_out(side, q.reference)})
    if isinstance(found, Difference):
        return _regression(q, found, level, shared, left_out)
    return _threshold(q, found, level, shared, left_out)


def _found(saved: SavedResult, q: _Question) -> Interval | Difference | str:
    """What the rule is about, or what the result lacks of it."""
    if absent := _absent(saved, q):
        return absent
    metric, subset = q.rule.metric, q.rule.subset
    if q.baseline:
        difference = saved.difference(q.checkpoint, q.baseline, q.reference, metric, subset)
        return difference or f"the result has no paired difference of the two in {metric}"
    estimate = saved.estimate(q.checkpoint, q.reference, metric, subset)
    return estimate or f"the result has no {metric}"


def _absent(saved: SavedResult, q: _Question) -> str:
    """Which name of a question the result does not have; empty if it has all."""
    if q.rule.reward_model not in {"", saved.model}:
        return f"the result has nothing under {q.rule.reward_model}"
    if not q.checkpoint:
        return "every checkpoint that could be tested is a baseline; none is under test"
    sides = [name for name in (q.checkpoint, q.baseline) if name]
    for name, known in [(s, saved.checkpoints) for s in sides] + [(q.reference, saved.references)]:
        if name not in known:
            return _not_there(name, known)
    for side in sides:
        if not saved.compared(side, q.reference):
            return f"the result has no comparison of {side} with {q.reference}"
        subsets = saved.subsets(side, q.reference)
        if q.rule.subset and q.rule.subset not in subsets:
            return _not_there(q.rule.subset, list(subsets), "subset ")
    return ""


def _not_there(name: str, known: Sequence[str], kind: str = "") -> str:
    hint = did_you_mean(name, known) or f"it has {listing(known, shown=SHOWN)}"
    return f"{kind}{name} is not in the result; {hint}"


def _threshold(q: _Question, found: Interval, level: float, shared: float, left_out: int) -> Judged:
    bound, bounded = q.limit, q.rule.metric in RATES
    low, _ = at_level(found, level, bounded=bounded)
    _, high = at_level(found, shared, bounded=bounded)
    decision = threshold_state(found.value, low, high, bound)
    needed = None
    if decision.state == "inconclusive":
        side = level if (found.value or 0.0) > bound else shared
        needed = prompts_to_decide(found, bound, level=side, power=POWER, bounded=bounded)
    return _answer(q, decision, found, low, high, needed=needed, left_out=left_out)


def _regression(
    q: _Question, found: Difference, level: float, shared: float, left_out: int
) -> Judged:
    rate = q.rule.metric in RATES
    low, _ = _difference_ends(found, level, rate=rate)
    _, high = _difference_ends(found, shared, rate=rate)
    decision = regression_state(low, high, -q.limit, strict=q.rule.strict)
    needed = None
    if decision.state == "inconclusive":
        needed = _prompts_for_difference(q.rule, found, level, shared)
    judged = _answer(q, decision, found.interval, low, high, needed=needed, left_out=left_out)
    return replace(judged, deciding=found.deciding)


def _difference_ends(
    found: Difference, level: float, *, rate: bool
) -> tuple[float | None, float | None]:
    """The interval of a difference; where few prompts decide, from how many could at most.

    A mean of values in [0, 1] differs by no more than the share of prompts that differ at all; of
    rewards, which have no bounds, as many say nothing.
    """
    if found.deciding >= FEW_DECIDING:
        return at_level(found.interval, level, bounded=False)
    if not rate or found.interval.clusters < found.prompts:
        return None, None  # whole clusters of prompts are no independent trials
    most = hoeffding(found.deciding / found.prompts, found.prompts, level)[1]
    return -most, most


def _prompts_for_difference(
    rule: Rule, found: Difference, level: float, shared: float
) -> int | None:
    margin, i = rule.margin or 0.0, found.interval
    if i.value is None:
        return None
    fails_below = 0.0 if rule.strict else -margin
    if found.deciding < FEW_DECIDING:
        if rule.metric not in RATES or i.clusters < found.prompts:
            return None
        how = LossRule(margin, fails_below, level, shared, FEW_DECIDING)
        if needed := prompts_to_decide_few(_differing(found, i.value), how, power=POWER):
            return needed
    targets = [(-margin, level)] if i.value > -margin else []
    targets += [(fails_below, shared)] if i.value < fails_below else []
    numbers = [prompts_to_decide(i, target, level=at, power=POWER) for target, at in targets]
    return min((n for n in numbers if n is not None), default=None)


def _differing(found: Difference, value: float) -> Differing:
    share = found.deciding / found.prompts
    if not share:
        return Differing(0.0, 0.0, 1.0)
    square = (found.interval.stderr or 0.0) ** 2 * (found.prompts - 1) + value**2
    return Differing(share, value, min(1.0, square / share))


def _answer(
    q: _Question,
    decision: Decision,
    found: Interval | None,
    low: float | None = None,
    high: float | None = None,
    *,
    needed: int | None = None,
    left_out: int = 0,
) -> Judged:
    state, why = decision
    if state == "pass" and left_out:
        state, why = "inconclusive", f"{why}, were it not for {count(left_out, 'prompt')} left out"
    n = found.n if found else 0
    needed = needed and max(needed, n + 1)
    value = found.value if found else None
    if found:
        ends = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
        number = "undefined" if value is None else f"{value:.4g}{ends}"
        why = f"{number} on {count(n, 'prompt')}: {why}"
    if needed:
        why += f"; about {needed:,} prompts would decide"
    return Judged(
        name=q.name,
        rule=q.rule,
        checkpoint=q.checkpoint,
        baseline=q.baseline,
        reference=q.reference,
        reward_model=q.reward_model,
        state=state,
        value=value,
        low=low,
        high=high,
        limit=q.limit,
        n=n,
        left_out=left_out,
        deciding=None,
        n_needed=needed,
        reason=why,
    )

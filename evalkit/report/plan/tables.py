"""What a plan says, in words and cells; percent and points appear here and not below."""

from __future__ import annotations

from evalkit.gate.policy import RATES
from evalkit.plan import Design, Plan, Settlement, Undecided
from evalkit.report.tables import METRICS, UNDEFINED, percent, points
from evalkit.text import count, listing

CHEAPEST = "cheapest"


def sentence(plan: Plan) -> str:
    """The answer: how many prompts, of the cheapest design, with their range."""
    d = plan.cheapest
    return (
        f"To {_question(plan)} with {100 * plan.options.power:.12g} % power: {prompts_of(d)}, with "
        f"{count(d.completions, 'completion')} and {count(d.references, 'reference')} each; "
        f"{count(d.total, 'completion')} to generate."
    )


def _question(plan: Plan) -> str:
    o, metric = plan.options, METRICS[plan.options.metric]
    against = f"against {listing(plan.references)}"
    if len(plan.checkpoints) == 2:
        a, b = plan.checkpoints
        return f"tell {a} from {b} {against}, were they {_size(o.detect)} points of {metric} apart"
    (name,) = plan.checkpoints
    places = 1 if o.detect >= 0.0095 else 3  # so that a small difference does not read as none
    far = [f"{round(100 * (0.5 + sign * o.detect), 9):.{places}f}" for sign in (1, -1)]
    return f"tell {name} from 50 % {against}, were its {metric} {far[0]} % (or {far[1]} %),"


def title(plan: Plan) -> str:
    """What the numbers rest on."""
    o, mean = plan.options, plan.components.mean
    k = " and ".join(map(str, dict.fromkeys(plan.completions)))
    there = f"difference there {points(mean)} points"
    if len(plan.checkpoints) == 1:
        there = f"{METRICS[o.metric]} there {percent(0.5 + mean)} %"
    return (
        f"pilot: {count(plan.prompts, 'prompt')}, {k} completion{'' if k == '1' else 's'} each, "
        f"{count(plan.components.references, 'reference')}, reward model {plan.reward_model}; "
        f"{there}; two-sided test at {100 * (1 - o.level):.3g} %, ranges of prompts at "
        f"{100 * o.level:.12g} % for what the pilot leaves open of the spread"
    )


def prompts_of(d: Design) -> str:
    """`1,200 prompts [950, 1,510]`."""
    return f"{count(d.prompts, 'prompt')} {_range(d)}"


def _range(d: Design) -> str:
    return f"[{d.fewest:,}, {UNDEFINED if d.most is None else f'{d.most:,}'}]"


def _size(difference: float) -> str:
    """The size of a difference in percentage points, finer where it is small."""
    return percent(difference, 1 if difference >= 0.0095 else 3)


def table(plan: Plan) -> list[list[str]]:
    """A row per design under a head."""
    head = [
        "completions", "references", "prompts", "range", "checkpoint completions",
        "reference answers to add", "to generate in all",
        f"detectable points on {plan.prompts:,} prompts", "",
    ]  # fmt: skip
    rows = [
        [
            f"{d.completions}",
            f"{d.references}",
            f"{d.prompts:,}",
            _range(d),
            f"{d.generated:,}",
            f"{d.answers:,}",
            f"{d.total:,}",
            _size(d.detectable),
            CHEAPEST if d is plan.cheapest else "",
        ]
        for d in plan.designs
    ]
    return [head, *rows]


def variances(plan: Plan) -> str:
    """Where the variance lies, in squared points."""
    c = plan.components
    parts = [("between prompts", c.between), ("of references", c.by_reference)]
    for name, side in zip(plan.checkpoints, (c.a, c.b), strict=False):
        parts.append((f"of completions of {name}", side and side.completions))
        if c.references > 1:
            parts.append((f"of these by reference for {name}", side and side.by_reference))
    said = [f"{name} {1e4 * value:,.0f}" for name, value in parts if value is not None]
    return f"variance in squared points: {', '.join(said)}"


def lines(plan: Plan) -> list[str]:
    """What stands below the table."""
    found = [variances(plan)]
    if plan.ceiling is not None:
        found.append(
            f"the spread is the pilot's; whatever a checkpoint's is, {plan.ceiling:,} prompts with "
            "one completion and reference are enough"
        )
    return found


# After a run


def headline(found: Settlement) -> str:
    """How many rules are undecided, and how many prompts would settle all of them."""
    if not found.undecided:
        failed = f"; {found.failed} of them surely not met" if found.failed else ""
        decided = f"{found.rules} of {count(found.rules, 'rule')} decided"
        return f"Nothing is to settle: {decided}{failed}."
    n = len(found.undecided)
    said = f"{n} of {count(found.rules, 'rule')} inconclusive"
    needed = [u.judged.n_needed for u in found.undecided if u.feasible]
    if len(needed) == n:
        most = max(filter(None, needed))
        return f"{said}: {count(most, 'prompt')} would settle {'it' if n == 1 else 'each'}."
    return f"{said}: prompts would settle {len(needed)} of {n}."


def explained(u: Undecided) -> list[str]:
    """Why a rule is inconclusive, then what would settle it, a sentence a line."""
    if u.cause == "nothing earlier":
        return [f"{u.judged.reason}: the next one can be held against this"]
    return [_why(u), *_prompts(u), *_limits(u), *_instead(u)]


def _why(u: Undecided) -> str:
    j = u.judged
    if u.cause == "no interval":
        return f"{count(j.n, 'prompt')} give no interval that could be held against the limit"
    if u.cause == "left out":
        return (
            f"it would pass, were it not for {count(j.left_out, 'prompt')} left out: add their "
            "completions or rewards"
        )
    if u.cause == "few deciding":
        return (
            f"the two differ on {j.deciding} of {count(j.n, 'prompt')} only, from which no more "
            f"than {_ends(u)} can be said"
        )
    if u.distance is None or u.half_width is None:
        return "its value is undefined"
    return (
        f"the value is {_amount(u, u.distance)} from the limit, and its interval reaches "
        f"{_amount(u, u.half_width)} that way: {_ends(u)}"
    )


def _prompts(u: Undecided) -> list[str]:
    j = u.judged
    if u.cause == "left out":
        return []
    if j.n_needed is None:
        on = j.value is not None and j.value == j.limit
        why = ": the value is the limit" if on else ""
        return [f"no number of prompts can be named that would settle it{why}"]
    said = f"about {count(j.n_needed, 'prompt')} would decide in 80 % of runs, were the value true"
    if j.left_out:
        said += f", and none left out ({j.left_out:,} are now)"
    if u.feasible:
        return [said]
    times = j.n_needed // j.n
    return [f"{said}: {times:,} times those of this run, so that no feasible number settles it"]


def _limits(u: Undecided) -> list[str]:
    """What the same prompts could have decided; a limit is declared before the run all the same."""
    j = u.judged
    if u.cause == "left out" or j.low is None or j.high is None:
        return []
    if j.rule.margin is None:
        passes, fails = f"a bound up to {_level(u, j.low)}", f"a bound above {_level(u, j.high)}"
    else:
        passes = f"a margin above {_amount(u, -j.low)}"
        fails = f"a margin below {_amount(u, -j.high)}" if j.high < 0 else ""
    said = [] if j.left_out else [f"{passes} (passes)"]  # no gate passes what leaves prompts out
    said += [f"{fails} (fails)"] if fails else []
    if not said:
        return []
    return [
        f"these prompts could have decided {' or '.join(said)}; declare the next one before its run"
    ]


def _instead(u: Undecided) -> list[str]:
    if u.absent:
        return [
            f"what more completions a prompt would do instead is not told: {u.absent}; a result "
            "keeps names and no paths, so name its files in evalkit.toml"
        ]
    if not (u.instead and u.feasible):
        return []
    said = ", ".join(f"{x.prompts:,} with {x.completions}" for x in u.instead)
    return [f"prompts with more completions each: about {said}; never fewer than {u.floor:,}"]


def _ends(u: Undecided) -> str:
    j = u.judged
    ends = [UNDEFINED if x is None else _level(u, x) for x in (j.low, j.high)]
    return f"[{ends[0]}, {ends[1]}]"


def _is_rate(u: Undecided) -> bool:
    return u.judged.rule.metric in RATES


def _amount(u: Undecided, x: float) -> str:
    """A length: in points for rates, else in units of the metric."""
    return f"{_size(x)} points" if _is_rate(u) else f"{x:.3g}"


def _level(u: Undecided, x: float) -> str:
    """A place: in percent for rates, in points for a difference of them."""
    if not _is_rate(u):
        return f"{x:.4g}"
    return f"{percent(x)} %" if u.judged.rule.margin is None else f"{points(x)} points"

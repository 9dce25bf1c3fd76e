"""Comparisons as tables: terminal, Markdown, CSV. Percent appears here and nowhere below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evalkit.breakdown import FEWEST
from evalkit.comparison import Comparison, Group
from evalkit.contrasts import Compared, Contrast, Macro
from evalkit.report.gate import gated
from evalkit.report.layout import (
    aligned,
    csv_lines,
    escape,
    markdown_block,
    markdown_signature,
    markdown_table,
)
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.statistics.gates import FEW_DECIDING
from evalkit.statistics.intervals import Estimate
from evalkit.text import listing, printable

UNDEFINED = "n/a"
METRICS = {"win_rate": "win rate", "win_probability": "win probability"}
HEAD = ("checkpoint", "reference", "n", "win rate", "W/T/L", "win probability", "mean reward",
        "reference mean", "margin")  # fmt: skip
TESTS = ("difference", "points", "p (max-t)", "p (Holm)", "p (permutation)", "p (McNemar)",
         "effect size", "correlation", "detectable points", "prompts for 2 points")  # fmt: skip


def percent(fraction: float, places: int = 1) -> str:
    """A fraction in percent; 102/160 is 63.75 and not the double just below it."""
    return f"{_hundredfold(fraction):.{places}f}"


def points(difference: float | None, places: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign: `+2.1`."""
    if difference is None or not math.isfinite(difference):
        return UNDEFINED
    return f"{_hundredfold(difference):+.{places}f}"


def _hundredfold(fraction: float) -> float:
    return round(100 * fraction, 9)


def share(estimate: Estimate | None) -> str:
    """A fraction as percent, without its interval."""
    if estimate is None or estimate.value is None:
        return UNDEFINED
    return f"{percent(estimate.value)} %"


def rate(estimate: Estimate) -> str:
    """A fraction as percent with its interval: `54.2 % [50.8, 57.6]`."""
    if estimate.value is None:
        return UNDEFINED
    return f"{share(estimate)} {_interval(estimate, percent)}"


def difference(estimate: Estimate | None) -> str:
    """A difference in percentage points with its interval: `+2.1 [-0.3, +4.5]`."""
    if estimate is None or estimate.value is None:
        return UNDEFINED
    return f"{points(estimate.value)} {_interval(estimate, points)}"


def amount(estimate: Estimate) -> str:
    """A number in reward-model units with its interval: `0.31 [0.25, 0.37]`."""
    if estimate.value is None:
        return UNDEFINED
    return f"{estimate.value:.3f} {_interval(estimate, '{:.3f}'.format)}"


def _interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return "[undefined]"
    return f"[{form(estimate.low)}, {form(estimate.high)}]"


def cells(group: Group) -> list[str]:
    """The cells of one row, from `n` on."""
    e = group.estimates
    return [
        f"{group.n}",
        rate(e["win_rate"]),
        f"{group.wins}/{group.ties}/{group.losses}",
        rate(e["win_probability"]),
        amount(e["mean_reward"]),
        amount(e["reference_mean_reward"]),
        amount(e["margin"]),
    ]


def rows(comparisons: Sequence[Comparison], *, subsets: bool) -> list[list[str]]:
    """Rows of cells under `HEAD`; with subsets, each below its comparison."""
    found = []
    for c in comparisons:
        found.append([printable(c.checkpoint.name), printable(c.reference.name), *cells(c.overall)])
        if subsets:
            found += [[f"  {printable(name)}", "", *cells(g)] for name, g in c.subsets.items()]
    return found


def sentence(c: Comparison) -> str:
    """The verdict in words, as the interval supports it and no further."""
    e = c.overall.estimates["win_rate"]
    names = f"{c.checkpoint.name} against {c.reference.name}"
    if e.value is None:
        return f"{names}: no prompt decides (all are ties, and ties are dropped)."
    level = f"{100 * e.level:g} % CI"
    found = f"wins {rate(e)} ({level}) of {e.n} prompts"
    if e.low is None or e.high is None:
        return f"{names}: {found}; too few prompts for an interval."
    if e.low > 0.5:
        return f"{names}: {found}; better on this reward model."
    if e.high < 0.5:
        return f"{names}: {found}; worse on this reward model."
    return f"{names}: {found}; not separable from the reference."


def subset_line(c: Comparison) -> str:
    """Which subsets decide, in words; empty without subsets."""
    if not c.subsets:
        return ""
    level = c.overall.estimates["win_rate"].level
    rates = {name: g.estimates["win_rate"].value or 0.0 for name, g in c.subsets.items()}
    decided = sorted(c.breakdown.decided(level), key=lambda name: -rates[name])
    better = [name for name in decided if rates[name] > 0.5]
    worse = [name for name in decided[::-1] if rates[name] < 0.5]
    few = [name for name, g in c.subsets.items() if g.n < FEWEST]
    parts = [
        f"{said} {listing(found)}"
        for said, found in (("better on", better), ("worse on", worse), ("too few prompts:", few))
        if found
    ]
    rest = len(c.subsets) - len(better) - len(worse) - len(few)
    if rest:
        parts.append(f"{rest} of {len(c.subsets)} not separable")
    macro = f"; mean over subsets {rate(c.breakdown.macro)}" if c.breakdown.macro else ""
    name = f"{c.checkpoint.name} against {c.reference.name}"
    return f"{name}: {'; '.join(parts)} (Holm over subsets){macro}"


def length_line(c: Comparison) -> str:
    """What the lengths say, in words; empty where they are not known."""
    if c.lengths is None:
        return ""
    controlled, d = c.lengths.controlled, c.lengths.diagnostics
    longer = f"the longer answer wins {rate(d.longer_preferred)} of prompts with unequal lengths"
    name = f"{c.checkpoint.name} against {c.reference.name}"
    if controlled.state == "ok":
        pool = len(c.lengths.pool)
        learnt = f" (prior and difficulties from {pool} other answers)" if pool else ""
        return f"{name}: win rate at equal lengths {rate(controlled.estimate)}{learnt}; {longer}"
    if controlled.state == "extrapolated":
        longer_on = percent(controlled.share_longer or 0.0)
        return (
            f"{name}: longer on {longer_on} % of prompts, so that a win rate at equal "
            f"lengths would be an extrapolation; {rate(c.lengths.matched)} on the half of the "
            f"prompts closest in length; {longer}"
        )
    return f"{name}: no win rate at equal lengths ({controlled.state}); {longer}"


def human_line(c: Comparison) -> str:
    """The win rate that human labels correct, in words; empty without labels."""
    if c.human is None:
        return ""
    name = f"{c.checkpoint.name} against {c.reference.name}"
    labels = f"{c.human.labelled} human labels"
    if not c.human.weight:
        return (
            f"{name}: win rate by {labels} alone {rate(c.human.classical)}; the other prompts add "
            "nothing to so few, or to so clear a case"
        )
    return (
        f"{name}: win rate corrected by {labels} {rate(c.human.estimate)}; from the labels alone "
        f"{rate(c.human.classical)}; the labelled prompts must be a random sample"
    )


def said_of_each(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """What subsets, lengths and human labels say, each with its kind."""
    kinds = (("subsets", subset_line), ("length", length_line), ("human", human_line))
    return [(kind, line) for kind, of in kinds for c in comparisons if (line := of(c))]


def contrast_lines(found: Compared) -> list[str]:
    """Checkpoints against each other, and over several references, in words."""
    lines = []
    for k in found.contrasts:
        e = k.difference.estimate
        if e.value is None:
            continue
        band = "[no band]"
        if k.band.low is not None and k.band.high is not None:
            band = f"[{points(k.band.low)}, {points(k.band.high)}]"
        p = "" if k.band.p is None else f", p = {k.band.p:.2g}"
        least = "" if k.detectable is None else f"; {percent(k.detectable)} points were detectable"
        lines.append(
            f"{k.checkpoint} − {k.against} against {k.reference}: {points(e.value)} points on "
            f"{k.prompts} prompts {band}{p}{least}{_warned(k)}"
        )
    lines += [
        f"{m.checkpoint} over {len(m.references)} references: win rate "
        f"{rate(m.estimates['win_rate'])}{_standing(m)}{_of_length(m)}"
        for m in found.macros
    ]
    return lines


def contrast_table(found: Compared) -> list[list[str]]:
    """The tests of every difference, under a head; empty without two checkpoints."""
    rows = [
        [
            printable(f"{k.checkpoint} − {k.against} ({k.reference})"),
            points(k.difference.estimate.value),
            *(
                UNDEFINED if value is None else f"{value:.2g}"
                for value in (
                    k.band.p,
                    k.holm,
                    k.permutation_p,
                    k.mcnemar.p,
                    k.difference.effect_size,
                    k.difference.correlation,
                )
            ),
            UNDEFINED if k.detectable is None else percent(k.detectable),
            UNDEFINED if k.prompts_for_two_points is None else f"{k.prompts_for_two_points}",
        ]
        for k in found.contrasts
    ]
    return [list(TESTS), *rows] if rows else []


def _warned(k: Contrast) -> str:
    few = k.deciding < FEW_DECIDING
    return f"; only {k.deciding} prompts decide: do not trust the band" if few else ""


def _decided_by(model: RewardModelSpec) -> str:
    name = f"{printable(model.name)} #{model.fingerprint[:16]}"
    return (
        f"judge {name}"
        if model.family.kind in {"verdicts", "judge"}
        else (f"reward model {name} ({model.dtype})")
    )


def _standing(m: Macro) -> str:
    """How high a checkpoint stands among its references, in their standard deviations."""
    z = m.estimates.get("standardised_reward")
    if z is None or z.value is None:
        return ""
    return f"; mean reward {amount(z)} standard deviations from the references of a prompt"


def _of_length(m: Macro) -> str:
    """What the reward model makes of length among the references."""
    if m.length is None or m.length.value is None:
        return ""
    return f"; among a prompt's references reward and length correlate by {amount(m.length)}"


def left_out(c: Comparison) -> list[str]:
    """A line for every prompt left out and why, and what they could have changed at most."""
    unmatched = c.table.unmatched
    lines = [
        *(f"{i}: no completion of {c.checkpoint.name}" for i in unmatched.missing_in_checkpoint),
        *(f"{i}: no completion of {c.reference.name}" for i in unmatched.missing_in_reference),
        *(f"{i}: {why}" for i, why in unmatched.unscored.items()),
    ]
    if c.worst_case is not None:
        low, high = (f"{percent(end)} %" for end in c.worst_case)
        lines.append(f"had all of them been lost or won, the win rate would be {low} or {high}")
    return lines


def to_text(found: Compared) -> str:
    """The table for a terminal, with notices and signatures below."""
    comparisons = found.comparisons
    first = comparisons[0]
    model = first.reward_model
    level = first.overall.estimates["win_rate"].level
    lines = [f"{_decided_by(model)}; {100 * level:g} % intervals"]
    body = rows(comparisons, subsets=len(comparisons) == 1)
    lines += aligned([HEAD, *body])
    notices = dict.fromkeys(notice for c in comparisons for notice in c.notices)
    lines += [f"note: {printable(notice)}" for notice in notices]
    lines += [f"note: {printable(line)}" for c in comparisons for line in left_out(c)[-1:]]
    lines += [f"difference: {printable(line)}" for line in contrast_lines(found)]
    lines += [f"{kind}: {printable(x)}" for kind, x in said_of_each(comparisons)]
    lines += [f"signature: {printable(str(c.signature))}" for c in comparisons]
    return "\n".join(lines) + "\n"


def to_markdown(found: Compared) -> bytes:
    """What a gate says, then the same table as Markdown; text is escaped."""
    comparisons = found.comparisons
    lines = [line for block in gated(found.verdict) for line in markdown_block(block)]
    lines += markdown_table([list(HEAD), *rows(comparisons, subsets=True)])
    notices = dict.fromkeys(notice for c in comparisons for notice in c.notices)
    lines += ["", *(f"- note: {escape(printable(notice))}" for notice in notices)]
    lines += [f"- difference: {escape(printable(x))}" for x in contrast_lines(found)]
    if tests := contrast_table(found):
        lines += ["", *markdown_table(tests), ""]
    lines += [f"- {kind}: {escape(printable(x))}" for kind, x in said_of_each(comparisons)]
    lines += [f"- left out: {escape(printable(x))}" for c in comparisons for x in left_out(c)]
    lines += [markdown_signature(c.signature) for c in comparisons]
    return ("\n".join(lines) + "\n").encode()


def to_csv(found: Compared) -> bytes:
    """Every estimate on a line, numbers in full; text cells cannot act as formulas."""
    return csv_lines([record for c in found.comparisons for record in c.records()])

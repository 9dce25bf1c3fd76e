"""The card as Markdown, in the sections that metric cards have; computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalkit.accuracy import AccuracyTable
from evalkit.calibrate import Calibration
from evalkit.card import Card
from evalkit.report import calibration as calibrations
from evalkit.report.card import words
from evalkit.report.layout import escape, markdown_signature, markdown_table
from evalkit.report.tables import percent, rate
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.reward_scale import QUANTILES, Quantiles
from evalkit.suites import Suite
from evalkit.text import count, printable

PAID = "every repeat is a paid request"
NO_FIT = "a fit of the cross-validation has no temperature"
HEAD = ("measure", "value", "n", "how it was measured")
Line = tuple[str, str, str, str]


def to_markdown(card: Card) -> bytes:
    """The card as UTF-8 Markdown; text of others is escaped."""
    spec = card.reward_model
    sections = {
        "Type": [words.TYPE[spec.family.output]],
        "Range": [words.RANGE[spec.family.output], "", *_table(_range(card))],
        "Higher is better": [words.HIGHER.get(spec.family.output, words.WITHIN)],
        "Inputs": _items(words.inputs(card)),
        "Formal definition": ["```text", *map(_code, words.definition(spec)), "```"],
        "Comparability": [
            "Within one prompt and one reward model only. Rewards of different prompts, and of "
            "different reward models, are not on one scale.",
            *([] if card.alone is None else ["", *_table(_spread(card))]),
        ],
        "Ties and noise": _table(_ties(card)),
        "Length and position": _table([*_length(card), *_position(card)]),
        "Accuracy and calibration": _labelled(card),
        "Rows": _table(_rows(card)),
        "Throughput": _throughput(card),
        "Limits": _items(_limits(card)),
        "Biases": _items(_biases(card)),
        "Citation": [_text(card.stated.citation) or "None stated."],
        "How it was measured": _made(card),
    }
    lines = [f"# Metric card: {_text(spec.name)}", "", *_identity(card)]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return ("\n".join(lines) + "\n").encode()


def _identity(card: Card) -> list[str]:
    spec = card.reward_model
    title = f": {spec.family.title}" if spec.family.title else ""
    notices = [f"> {_text(notice)}" for notice in card.notices]
    return [
        *notices,
        *([""] if notices else []),
        f"- fingerprint: `{spec.fingerprint}`",
        f"- family: {_text(spec.family.name)}{_text(title)}",
        f"- output: {spec.family.output}",
        f"- licence: {_text(card.stated.licence) or 'none stated'}",
    ]


def _range(card: Card) -> Iterator[Line]:
    what = "ordered pairs" if card.reward_model.is_pairwise else "conversations"
    how = f"all {what} of the data with a reward"
    yield from _quantiles(card.rewards, how)


def _quantiles(found: Quantiles | None, how: str) -> Iterator[Line]:
    if found is None:
        yield ("quantiles", "not measured: there are none", "0", how)
        return
    between = f"{how}; linear interpolation"
    yield ("smallest", _number(found.low), f"{found.n:,}", how)
    for q, value in zip(QUANTILES, found.at, strict=True):
        yield (f"{100 * q:g} % quantile", _number(value), f"{found.n:,}", between)
    yield ("largest", _number(found.high), f"{found.n:,}", how)


def _spread(card: Card) -> Iterator[Line]:
    if card.alone is None:
        return
    s = card.alone.spread
    yield (
        "standard deviation within prompts",
        _or_why(s.within, "no prompt has two completions"),
        f"{count(s.completions, 'completion')}, {count(s.prompts, 'prompt')}",
        "root of the mean variance within prompts of two completions or more, weighted by their "
        "completions less one",
    )
    yield (
        "standard deviation between prompts",
        _or_why(s.between, "fewer than two prompts"),
        count(s.means, "prompt"),
        "of the prompts' mean rewards",
    )


def _ties(card: Card) -> Iterator[Line]:
    noise, pairs = card.noise, card.same_prompt
    n = f"{count(pairs.pairs, 'pair')}, {count(pairs.prompts, 'prompt')}"
    every = "every two different completions of a prompt"
    where = "by its server" if card.reward_model.endpoint else "on the machine that wrote this card"
    yield (
        "batch noise",
        f"at most {noise.band:.2g}" if noise else f"not measured: {PAID}",
        count(noise.conversations if noise else 0, "item"),
        "widest range of one item's rewards: alone, and twice in shuffled batches of 8, " + where,
    )
    yield (
        "tie rate, exact",
        _rate(pairs.tied),
        n,
        f"{every}; margin of exactly 0; {_interval(pairs.tied)}",
    )
    if pairs.within_noise is not None:
        yield (
            "tie rate, within the noise",
            _rate(pairs.within_noise),
            n,
            f"{every}; margin no larger than the batch noise; {_interval(pairs.within_noise)}",
        )
    if pairs.size is not None:
        middle = pairs.size.at[QUANTILES.index(0.5)]
        yield ("median margin", _number(middle), n, f"{every}; size of the margin")


def _length(card: Card) -> Iterator[Line]:
    longer, unit = card.same_prompt.longer, _unit(card)
    yield (
        "longer one preferred",
        _rate(longer, "no two completions of unequal length"),
        f"{count(longer.n, 'pair')}, {count(longer.clusters, 'prompt')}",
        f"every two completions of a prompt of unequal length in {unit}, a tie counting one half; "
        + _interval(longer),
    )
    if card.alone is None:
        return
    found, slope = card.alone.correlation, card.alone.slope
    yield (
        "length correlation",
        _amount(found, "no prompt has four completions among which reward and length vary"),
        count(found.n, "prompt"),
        "mean over prompts of Spearman's correlation of reward and tokens among the completions "
        f"of a prompt, where there are four or more; {_interval(found)}",
    )
    yield (
        "reward per 100 tokens more",
        _amount(slope, "no prompt has completions of two lengths"),
        f"{count(slope.n, 'completion')}, {count(slope.clusters, 'prompt')}",
        f"least squares within prompts, clustered by prompt; {_interval(slope)}",
    )


def _position(card: Card) -> Iterator[Line]:
    if card.position is None:
        return
    p, both = card.position, "every two completions of a prompt in both orders"
    shares = {
        "probability of the first answer": (p.first, f"mean over {both}"),
        "probability moved by the order": (p.gap, f"mean over {both}"),
        "verdicts that the order turns": (p.flips, f"share of {both}"),
    }
    for name, (e, how) in shares.items():
        n = f"{count(e.n, 'pair')}, {count(e.clusters, 'prompt')}"
        yield (name, _rate(e), n, f"{how}; {_interval(e)}")


def _labelled(card: Card) -> list[str]:
    lines = [
        *([] if card.calibration is None else _calibration(card.calibration)),
        *(line for suite, table in card.accuracies for line in _accuracy(suite, table)),
    ]
    if lines:
        return _table(lines)
    pairs = "no suite" if card.reward_model.is_pairwise else "neither labelled pairs nor a suite"
    return [f"Not measured: {pairs} was given (`--pairs`, `--accuracy`)."]


def _calibration(c: Calibration) -> Iterator[Line]:
    e, t = c.overall.estimates, c.temperature
    n = f"{count(c.overall.n, 'pair')}, {t.clusters:,} independent"
    left = f", {len(c.unscored)} without a reward left out" if c.unscored else ""
    by = f"pairs of {c.source}{left}"
    shown = {
        "accuracy, a tie wrong": (_rate, "accuracy", ""),
        "accuracy, a tie one half": (_rate, "accuracy_half_credit", ""),
        "log loss at T = 1": (_amount, "bradley_terry_loss", "; a coin has 0.693"),
        "log loss at T": (_amount, "held_out_loss", "; each at a T fitted to other pairs"),
    }
    for name, (written, key, more) in shown.items():
        yield (name, written(e[key], NO_FIT), n, f"{by}{more}; {_interval(e[key])}")
    ends = f"[{_or_unbounded(t.low)}, {_or_unbounded(t.high)}]"
    fitted = f"maximum likelihood on {by}; {100 * t.level:g} % interval"
    if t.value is None:
        yield ("temperature T", f"not measured: {calibrations.NO_TEMPERATURE[t.state]}", n, fitted)
    else:
        yield ("temperature T", f"{_number(t.value)} {ends}", n, fitted)
    floor = f"sampling alone would show {c.raw.floor.mean:.3f}, at most {c.raw.floor.high:.3f}"
    yield ("calibration error at T = 1", f"{c.raw.error:.3f}", n, f"{by}; {floor}")


def _accuracy(suite: Suite, table: AccuracyTable) -> Iterator[Line]:
    part = table.overall
    own = part.score.of(suite.credit)
    rows = count(part.score.n, "row")
    errors = f"; {count(part.score.errors, 'row')} without a verdict" if part.score.errors else ""
    how = f"{suite.title}, ties by {suite.credit}; {_interval(own)}{errors}"
    yield (f"accuracy on {suite.title}", _rate(own), rows, how)
    for name, subset in table.subsets.items():
        of = subset.score.of(suite.credit)
        yield (f"{suite.title}, subset {name}", _rate(of), count(subset.score.n, "row"), how)
    if part.length is not None:
        both = {"longest": part.length.longest, "shortest": part.length.shortest}
        for name, baseline in both.items():
            yield (f"always the {name} on {suite.title}", _rate(baseline), rows, "by length alone")


def _rows(card: Card) -> Iterator[Line]:
    rows = card.rows
    what = "ordered pairs" if card.reward_model.is_pairwise else "conversations"
    of = f"{count(rows.prompts, 'prompt')}, {count(rows.completions, 'different completion')}"
    once = f"{of}; {count(rows.repeats, 'repeat')} of a completion counted once"
    unscored, n = sum(rows.unscored.values()), f"{rows.items:,}"
    yield (what, n, n, once)
    yield ("without a reward", _share(unscored, rows.items), n, "left out of every figure above")
    for why, number in rows.unscored.items():
        yield ("of these", f"{number:,}", f"{unscored:,}", why)
    scored = rows.items - unscored
    with_one = f"{what} with a reward"
    yield ("truncated", _share(rows.truncated, scored), f"{scored:,}", f"{with_one}; tokens cut")
    yield (
        "longest",
        count(rows.longest, _read(card)),
        f"{scored:,}",
        f"{with_one}; template included",
    )


def _throughput(card: Card) -> list[str]:
    t = card.throughput
    if t is None and card.reward_model.is_judge:
        return [f"Not measured: {PAID}."]
    if t is None:
        return ["Not measured: left out, so that the same command writes the same bytes."]
    timed = (
        "requests from here, network and waiting among them"
        if card.reward_model.endpoint
        else "forward passes alone, padding not counted"
    )
    per = "item" if card.reward_model.is_pairwise else "conversation"
    return [
        *_table(
            [
                (f"{_read(card)}s per second", f"{t.tokens_per_second:,.0f}",
                 count(t.tokens, _read(card)),
                 f"{timed}; {t.hardware}"),
                (f"{per}s per second", f"{t.conversations_per_second:.3g}",
                 count(t.conversations, per), f"likewise, {t.seconds:.2f} s in all"),
            ]
        ),
        "",
        "By the clock of one machine: a rerun writes other figures here.",
    ]  # fmt: skip


def _limits(card: Card) -> Iterator[str]:
    spec = card.reward_model
    yield (
        f"Every figure is of {count(card.rows.prompts, 'prompt')} from "
        f"{', '.join(source.name for source in card.sources)}; other data give others."
    )
    if spec.family.note:
        yield spec.family.note
    if spec.dtype != "float32" and card.noise:
        yield f"Rewards in {spec.dtype} depend on the batch; see the batch noise."
    if card.calibration is None and spec.family.output == "bradley-terry":
        yield "Its win probability σ(m) is not calibrated here."
    checked = card.stated.checked
    yield (
        "Its arithmetic was held against no reference implementation here."
        if checked == "not yet"
        else f"Its family's arithmetic was held against: {checked}."
    )


def _biases(card: Card) -> Iterator[str]:
    length = _leaning(card.same_prompt.longer, "longer", "shorter")
    yield f"Length: {length}. Length and quality may go together in these data."
    if card.position is not None:
        yield f"Position: {_leaning(card.position.first, 'first', 'second')}."
    yield "Not measured: style, language, flattery, its own trunk's output, and every other one."


def _leaning(e: Estimate, one: str, other: str) -> str:
    """Which of two answers a share leans to, as its interval supports it and no further."""
    if e.value is None or e.low is None or e.high is None:
        return "not measured: no interval"
    if e.low <= 0.5 <= e.high:
        return f"no preference between the {one} and the {other} answer is separable ({rate(e)})"
    side = one if e.low > 0.5 else other
    return f"it leans to the {side} of two answers (the {one} one: {rate(e)})"


def _made(card: Card) -> list[str]:
    command = [f"    {printable(card.options.command)}", ""] if card.options.command else []
    data = [
        (printable(s.name), s.digest[:16], f"{s.prompts:,}", f"{s.completions:,}")
        for s in card.sources
    ]
    table = markdown_table([("data", "sha256", "prompts", "completions"), *data])
    signatures = [
        card.signature,
        *([] if card.calibration is None else [card.calibration.signature]),
        *(found.signature for _, found in card.accuracies),
    ]
    return [*command, *table, "", *map(markdown_signature, signatures)]


def _table(lines: Iterator[Line] | Sequence[Line]) -> list[str]:
    return markdown_table([HEAD, *([printable(cell) for cell in line] for line in lines)])


def _items(lines: Iterator[str] | Sequence[str]) -> list[str]:
    return [f"- {_text(line)}" for line in lines]


def _text(text: str) -> str:
    return escape(printable(text))


def _code(text: str) -> str:
    """A line of a code block, which nothing in it can end."""
    return printable(text).replace("`", "'")


def _interval(e: Estimate) -> str:
    """How sure a figure is, in words: nothing where it is undefined."""
    return "no interval" if e.low is None else f"{100 * e.level:g} % interval ({e.method})"


def _or_unbounded(value: float | None) -> str:
    return "unbounded" if value is None else _number(value)


def _unit(card: Card) -> str:
    return "characters" if card.reward_model.is_pairwise else "tokens"


def _read(card: Card) -> str:
    """What the length of a row is counted in; a judge's tokens are not known here."""
    return "byte" if card.reward_model.is_judge else "token"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({percent(part / whole)} %)" if whole else f"{part:,}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _or_why(value: float | None, why: str) -> str:
    return f"not measured: {why}" if value is None else _number(value)


def _rate(e: Estimate, why: str = "there are none") -> str:
    return f"not measured: {why}" if e.value is None else rate(e)


def _amount(e: Estimate, why: str = "there are none") -> str:
    if e.value is None:
        return f"not measured: {why}"
    ends = "[undefined]" if e.low is None or e.high is None else f"[{e.low:.3f}, {e.high:.3f}]"
    return f"{e.value:.3f} {ends}"

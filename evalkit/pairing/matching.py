"""Who can be paired: the prompts of two sets, and what is refused or left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from evalkit.data import CompletionSet, Prompt, Unreadable, fix_of
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.pairing.table import Unmatched
from evalkit.text import by_kind, count, listing

Missing = Literal["error", "drop"]
Reasons = list[tuple[str, str]]  # prompt id, why one of its completions has no number
CLIP = 60


def match(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    *,
    missing: Missing = "error",
    expected: Iterable[Prompt] = (),
) -> dict[str, Prompt]:
    """The prompts of either set by id; refuses what could not be paired, before any scoring.

    Args:
        checkpoint: The set under test.
        reference: The set it is held against.
        missing: Whether prompts on one side only are refused or left for `pair` to leave out.
        expected: The benchmark's prompts, where one is named.

    Raises:
        InputError: Prompts missing on one side under `missing="error"`.
        IntegrityError: A prompt id that stands for different messages or subsets in the two sets.
    """
    _check_same_prompts(checkpoint, reference)
    prompts = {p.prompt_id: p for p in [*reference.prompts, *checkpoint.prompts, *expected]}
    absent = [
        (completions.name, prompt_id)
        for completions in (checkpoint, reference)
        for prompt_id in _absent(completions, prompts)
    ]
    if absent and missing == "error":
        lines = [f"{name} lacks {_name(prompts[prompt_id])}" for name, prompt_id in absent]
        n = len({prompt_id for _, prompt_id in absent})
        raise InputError(
            f"{count(n, 'prompt')} without a completion on one side",
            where=listing(lines, separator="\n     "),
            fix="add the missing completions, or compare the others with --missing drop",
        )
    return prompts


def _check_same_prompts(checkpoint: CompletionSet, reference: CompletionSet) -> None:
    known = {p.prompt_id: p for p in reference.prompts}
    differing = [
        p.prompt_id
        for p in checkpoint.prompts
        if (other := known.get(p.prompt_id, p)).messages != p.messages
        or (other.subset and p.subset and other.subset != p.subset)
    ]
    if differing:
        raise IntegrityError(
            f"different messages or subsets under {count(len(differing), 'prompt id')} of "
            f"{checkpoint.name!r} and {reference.name!r}",
            where=listing(differing),
            fix="compare answers to the same prompts, or leave the ids out: prompts are then "
            "matched by their messages",
        )


def keep(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    prompts: Mapping[str, Prompt],
    reasons: Reasons,
    missing: Missing,
) -> tuple[list[str], Unmatched]:
    """The prompts to compare, sorted, and those left out; refuses what `missing` does not allow."""
    unscored: dict[str, list[str]] = {}
    for prompt_id, reason in reasons:
        unscored.setdefault(prompt_id, []).append(reason)
    unmatched = Unmatched(
        _absent(checkpoint, prompts),
        _absent(reference, prompts),
        {prompt_id: "; ".join(dict.fromkeys(why)) for prompt_id, why in sorted(unscored.items())},
        unreadable=len({i for i, reason in reasons if isinstance(reason, Unreadable)}),
    )
    kept = sorted(prompts.keys() - unmatched.prompt_ids)
    if unmatched.unscored and (missing == "error" or not kept):
        fix = fix_of(reason for _, reason in reasons)
        raise _unscored(unmatched, prompts, fix, left=len(kept))
    if not kept:
        raise InputError(
            f"{checkpoint.name!r} and {reference.name!r} have no scored prompt in common",
            fix="compare answers to the same prompts",
        )
    return kept, unmatched


def _absent(completions: CompletionSet, prompts: Mapping[str, Prompt]) -> tuple[str, ...]:
    return tuple(sorted(prompts.keys() - {p.prompt_id for p in completions.prompts}))


def _unscored(
    unmatched: Unmatched, prompts: Mapping[str, Prompt], fix: str, *, left: int
) -> MissingError:
    reasons = [(_name(prompts[i]), why) for i, why in unmatched.unscored.items()]
    unread = f", {unmatched.unreadable} for want of a readable verdict"
    others = "compare the others with --missing drop; the rewards of all others are kept"
    return MissingError(
        f"{count(len(reasons), 'prompt')} with a completion that has no reward"
        f"{unread if unmatched.unreadable else ''}{'' if left else ': none is left to compare'}",
        where=listing(
            [f"{name}: {why}" for name, why in reasons] if left else by_kind(reasons),
            separator="\n     ",
        ),
        fix=f"{fix}{f'; or {others}' if left else ''}",
    )


def _name(prompt: Prompt) -> str:
    short = prompt.prompt_id if len(prompt.prompt_id) <= CLIP else f"{prompt.prompt_id[:12]}…"
    if not prompt.messages:  # of verdicts, whose prompts may be known by their ids alone
        return short
    text = " ".join(prompt.messages[-1].content.split())
    return f"{short} {text[:CLIP]!r}{'…' if len(text) > CLIP else ''}"

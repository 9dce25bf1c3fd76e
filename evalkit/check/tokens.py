"""Faults of the tokenizer and the chat template, measured in rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.check.result import Finding, Inapplicable
from evalkit.check.subject import Subject, rewards_of
from evalkit.check.turns import Turns, control_tokens, turns_of
from evalkit.data import Item, Message, Pair
from evalkit.reward_models import Rendered
from evalkit.reward_models.rendering import PINNED_DATE, pin

if TYPE_CHECKING:
    from evalkit.reward_models.batch import TorchRewardModel

MOVED = "max |Δ|"
NOT_LOCAL = Inapplicable("it is not computed here: where its files are, check them there")
UNCOUNTED = Inapplicable(
    "its server does not say how many tokens it reads, so one that it adds is not seen"
)
# Another day than the pinned one, in each of its parts.
OTHER_DATE = {
    "%Y": "2031", "%y": "31", "%m": "12", "%d": "03", "%-d": "3", "%-m": "12",
    "%b": "Dec", "%B": "December", "%a": "Wed", "%A": "Wednesday", "%j": "337",
}  # fmt: skip
POOLS_BY_POSITION = ("classifier", "scalar", "gated")


def double_bos(subject: Subject) -> Finding | Inapplicable | None:
    """Conversations that begin with two BOS: as rendered here, or as the template writes them."""
    if subject.spec.is_judge:
        return Inapplicable("a judge's prompt is text, whose tokens its server makes")
    here = all(_doubled(row.ids, subject.local) for row in subject.base.rows)
    local = subject.local
    if not here and not (local and _template_doubles(local, subject.base.items)):
        return None if subject.counted else UNCOUNTED
    other_way = _without_first if here else _with_first_twice
    who = "conversations begin with two BOS as they are scored"
    other = "the chat template itself writes two BOS; evalkit drops one, others keep both"
    return Finding(
        "double-bos",
        who if here else other,
        subject.moved([other_way(row) for row in subject.base.rows]),
        MOVED,
        "leave BOS either to the template or to the tokenizer: tokenise rendered text with "
        "add_special_tokens=False, and write bos_token once",
        here=here,
    )


def _doubled(ids: Sequence[int], local: TorchRewardModel | None) -> bool:
    twice = len(ids) > 1 and ids[0] == ids[1]
    return twice and (local is None or local.renderer.is_special(ids[0]))


def _template_doubles(local: TorchRewardModel, items: Sequence[Item]) -> bool:
    encoder, first = local.renderer, items[0]
    if isinstance(first, Pair):
        return False
    text = encoder.text(encoder.template, first)
    return _doubled(encoder.tokenizer(text, add_special_tokens=False)["input_ids"], local)


def _without_first(row: Rendered) -> Rendered:
    return row._replace(
        ids=row.ids[1:], marks=tuple(mark - 1 for mark in row.marks), segments=row.segments[1:]
    )


def _with_first_twice(row: Rendered) -> Rendered:
    return row._replace(
        ids=[row.ids[0], *row.ids],
        marks=tuple(mark + 1 for mark in row.marks),
        segments=(*row.segments[:1], *row.segments),
    )


def missing_eos(subject: Subject) -> Finding | Inapplicable | None:
    """A template that ends all turns but the last, or names an EOS that the tokenizer lacks."""
    found = _turns(subject)
    if isinstance(found, Inapplicable):
        return found
    local, turns = found
    encoder = local.renderer
    unknown = "eos_token" in encoder.template and encoder.tokenizer.eos_token is None
    closing = _stated_eos(local) if unknown else turns.closing
    ends = control_tokens(encoder, turns.tail)
    eos = encoder.tokenizer.eos_token
    if not turns.closing and not encoder.after and eos and eos not in ends:
        return _never_closed(subject, local, eos)
    closed = bool(ends) if unknown else not turns.closing or turns.closing in ends
    if closed or encoder.after:
        return None
    number = None
    if closing:
        rows = local.rendered_with(local.spec.template + closing, subject.base.items)
        number = subject.moved(rows)
    what = "the template writes eos_token, and the tokenizer has none"
    left = f"the answer's turn is left open, where other turns end with {closing}"
    return Finding(
        "missing-eos",
        what if unknown else left,
        number,
        MOVED,
        "state eos_token in tokenizer_config.json"
        if unknown
        else "let the template close the last turn as it was in training",
    )


def _never_closed(subject: Subject, local: TorchRewardModel, eos: str) -> Inapplicable:
    moved = subject.moved(local.rendered_with(local.spec.template + eos, subject.base.items))
    by = "" if moved is None else f"; with {eos} after it a reward moves by up to {moved:.3g}"
    return Inapplicable(
        f"no turn is closed, the last one neither{by}, and no file says how it was trained"
    )


def _stated_eos(local: TorchRewardModel) -> str:
    stated = local.model.config.eos_token_id
    token = stated[0] if isinstance(stated, list) and stated else stated
    return str(local.renderer.tokenizer.decode([token])) if isinstance(token, int) else ""


def _turns(subject: Subject) -> tuple[TorchRewardModel, Turns] | Inapplicable:
    if subject.local is None:
        return NOT_LOCAL
    if subject.spec.is_pairwise or subject.spec.family.setting("answer"):
        return Inapplicable("it reads answers beside the prompt, not as a turn of a conversation")
    turns = turns_of(subject.local.renderer)
    if turns is None:
        return Inapplicable("the template does not show texts as they are")
    return subject.local, turns


def generation_prompt(subject: Subject) -> Finding | Inapplicable | None:
    """A template that begins another answer after the last one, asked for or not."""
    found = _turns(subject)
    if isinstance(found, Inapplicable):
        return found
    local, turns = found
    if not turns.header:
        return None
    template = local.spec.template
    without = (
        f"{{% set rendered %}}{{{{ '' }}}}{template}{{{{ '' }}}}{{% endset %}}"
        f"{{{{ rendered[:-{len(turns.header)}] }}}}"
    )
    rows = local.rendered_with(without, subject.base.items)
    return Finding(
        "generation-prompt",
        f"after the answer the template begins another one, with {turns.header.strip()!r}, though "
        "no generation prompt is asked for",
        subject.moved(rows),
        MOVED,
        "write the assistant's header only {% if add_generation_prompt %}",
    )


def pad_is_eos(subject: Subject) -> Finding | Inapplicable | None:
    """A padding token that also stands inside conversations, where others pool by its id."""
    local = subject.local
    if local is None:
        return NOT_LOCAL
    setting = subject.spec.family.setting
    by_position = subject.spec.family.kind in POOLS_BY_POSITION and setting("pool") in (
        None,
        "last",
    )
    if not by_position or local.native_pooling:
        return Inapplicable("it is not read at its last token alone")
    found = {local.model.config.pad_token_id, local.renderer.tokenizer.pad_token_id}
    delta, pad, rule = max(
        (
            (_pooled_at(subject, [place(row.ids, pad) for row in subject.base.rows]), pad, rule)
            for pad in found
            if isinstance(pad, int)
            for rule, place in POOLED_BY_ID.items()
        ),
        default=(0.0, 0, ""),
    )
    if delta == 0:
        return None
    token = local.renderer.tokenizer.decode([pad])
    return Finding(
        "pad-is-eos",
        f"the padding token {token} ({pad}) also stands inside conversations: who takes {rule} "
        "for the last token, as many do, reads another one",
        delta,
        MOVED,
        "give it a padding token of its own, in tokenizer_config.json and as pad_token_id in "
        "config.json, or pool by the attention mask",
        here=False,
    )


def _pooled_at(subject: Subject, places: Sequence[int]) -> float:
    """How far rewards move that are read elsewhere: a causal model read there is one that ends."""
    cut = {
        i: row._replace(ids=row.ids[: place + 1], segments=row.segments[: place + 1])
        for i, (row, place) in enumerate(zip(subject.base.rows, places, strict=True))
        if place + 1 < len(row.ids) and all(mark <= place for mark in row.marks)
    }
    if not cut:
        return 0.0
    rewards = rewards_of(subject.model, list(cut.values()))
    return subject.base.shift(rewards, list(cut)).delta


def _before_first(ids: Sequence[int], pad: int) -> int:
    """The place before the first padding id; -1, if it is the first of all, is the last column."""
    return (list(ids).index(pad) - 1 if pad in ids else -1) % len(ids)


def _last_other(ids: Sequence[int], pad: int) -> int:
    """The last place that holds no padding id; 0 if none does."""
    return max((i for i, token in enumerate(ids) if token != pad), default=0)


POOLED_BY_ID = {
    "the token before the first padding id": _before_first,
    "the last token that is no padding id": _last_other,
}


def special_tokens_parsed(subject: Subject) -> Finding | Inapplicable | None:
    """Control tokens inside an answer that become control tokens and not text."""
    local = subject.local
    if local is None:
        return NOT_LOCAL
    tokenizer, base = local.renderer.tokenizer, subject.base.items[0]
    used = {i for row in subject.base.rows for i in row.ids}
    tokens = {
        i: token.content
        for i, token in tokenizer.added_tokens_decoder.items()
        if (token.special or i in used) and i != tokenizer.unk_token_id
    }
    clean, *hostile = local.render(
        [_answering(base, "a  b"), *(_answering(base, f"a {t} b") for t in tokens.values())]
    )
    parsed = {
        i: row
        for i, row in zip(tokens, hostile, strict=True)
        if row.ids.count(i) > clean.ids.count(i)
    }
    if not parsed:
        return None
    return Finding(
        "special-tokens-parsed",
        f"{', '.join(tokens[i] for i in parsed)} in an answer becomes a control token: an answer "
        "can end its own turn or write the next",
        len(parsed),
        "control tokens",
        'mark them "special": true in tokenizer.json and tokenizer_config.json',
    )


def _answering(item: Item, answer: str) -> Item:
    if isinstance(item, Pair):
        return item._replace(first=answer)
    return (*item[:-1], Message("assistant", answer))


def moving_date(subject: Subject) -> Finding | Inapplicable | None:
    """A template that writes today's date, which moves rewards from day to day."""
    local = subject.local
    if local is None:
        return NOT_LOCAL
    template = local.spec.template
    if "strftime_now" not in template:
        return None
    rows = local.rendered_with(pin(OTHER_DATE) + template, subject.base.items)
    if all(row.ids == here.ids for row, here in zip(rows, subject.base.rows, strict=True)):
        return None
    return Finding(
        "moving-date",
        "the template writes today's date; evalkit reads every conversation on "
        f"{PINNED_DATE['%Y']}-{PINNED_DATE['%m']}-{PINNED_DATE['%d']}, others on the day they run",
        subject.moved(rows),
        MOVED,
        "put a fixed date in place of strftime_now in the template, or pass it one",
        here=False,
    )

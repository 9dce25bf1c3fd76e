"""A served reward model of one number a conversation: checked when it is loaded, then asked.

That its scores are raw is not believed but shown: with the activation off and on, or by scores
that nothing which squashes can give. That it reads all of a conversation is shown by the tokens it
counts, or where it counts none, by the longest conversations and their ends.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence

from evalkit.data import Item, Message, Messages
from evalkit.errors import MissingError, RefusedModelError
from evalkit.reward_models import Rendered
from evalkit.reward_models.remote.asking import RemoteRewardModel, check_same_model, endpoint_of
from evalkit.reward_models.remote.client import Client, ReplyError
from evalkit.reward_models.remote.dialects import Request, dialects
from evalkit.reward_models.remote.texts import TextRenderer
from evalkit.reward_models.settings import DTYPES
from evalkit.reward_models.spec import RewardModelSpec, is_commit
from evalkit.reward_models.tokenizer import load_tokenizer
from evalkit.text import listing, printable

ROWS = 32  # of one request: what text-embeddings-inference and Infinity take unless told otherwise
NEAR = 0.01  # of a probability, computed in whatever precision
# Whether it reads more tokens than it is sent -> what `reward-models check` calls it, and the fix.
OTHER_TOKENS = {
    True: (
        "double-bos",
        "let the server add no special tokens of its own (add_special_tokens=false): what it is "
        "sent begins with BOS already",
    ),
    False: (
        "truncated-tail",
        "let the server cut nothing: serve it with a longer context, without truncation",
    ),
}
QUESTION = (Message("user", "Which is the capital of France?"),)
PROBES: tuple[Messages, ...] = tuple(
    (*QUESTION, Message("assistant", text))
    for text in (
        "Paris.",
        "Berlin, obviously.",
        "qwrt zxcv 0000 ;;;;",
        "I do not know.",
    )
)


ENDS = ("yes", "no", "0000")
FILLER = 16  # words over which the tokens of one are measured


class TokenCountError(ReplyError):
    """A server that read more tokens than it was sent, or fewer.

    Attributes:
        extra: How many more; below 0 for fewer.
    """

    def __init__(self, read: int, sent: int) -> None:
        super().__init__(f"the server read {read} tokens where {sent} are to be scored")
        self.extra = read - sent


class ServedRewardModel(RemoteRewardModel):
    """A reward model behind one of `dialects`.

    Args:
        spec: Which one.
        client: Asks its server.
    """

    def __init__(self, spec: RewardModelSpec, client: Client) -> None:
        super().__init__(spec, endpoint_of(spec), client)
        self.dialect = dialects()[spec.family.name]
        self._renderer = TextRenderer(spec, load_tokenizer(spec), self.dialect)
        self._counts = True  # whether replies say how many tokens were read

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation, and the texts a server without ids is sent."""
        return self._renderer.render(items)

    def requests(self, batch: Sequence[Rendered]) -> list[list[int]]:
        """As many requests as may be under way; for a reranker, rows of one question each."""
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(batch):
            groups.setdefault(row.texts[0] if self.dialect.reads == "pair" else "", []).append(i)
        size = min(ROWS, math.ceil(len(batch) / self.endpoint.concurrency))
        return [rows[i : i + size] for rows in groups.values() for i in range(0, len(rows), size)]

    def ask(self, rows: Sequence[Rendered]) -> list[float]:
        """Raw scores of the rows of one request."""
        return self._ask(rows, raw=True)

    def probe(self) -> None:
        """Score a probe again."""
        self.ask([row for row in self.render(PROBES) if not row.problem][:1])

    def check(self) -> None:
        """Refuse a server that serves something else, or gives other numbers than raw scores.

        Raises:
            MissingError: The model asked for is not served, or nothing can be scored.
            RefusedModelError: Its numbers are squashed, it reads other tokens than it is sent or
                not all of them, or its texts cannot be told exactly.
        """
        self._check_served()
        rendered = self.render(PROBES)
        rows = [row for row in rendered if not row.problem]
        if len(rows) < 2:
            problem = next(row.problem for row in rendered if row.problem)
            raise self._refuse(
                f"not even a short conversation can be sent to it: {problem}",
                "correct tokenizer, max_length or dialect in evalkit.toml",
            )
        try:
            raw = [self.ask([row])[0] for row in rows]
            on = [self._ask([row], raw=False)[0] for row in rows] if self.dialect.switch else raw
        except TokenCountError as error:
            code, fix = OTHER_TOKENS[error.extra > 0]
            raise self._refuse(str(error), fix, code, abs(error.extra)) from None
        except ReplyError as error:
            raise MissingError(
                f"the server of reward model {self.spec.name!r} does not answer as "
                f"{self.dialect.name} does: {error}",
                where=f"{self.endpoint.url}{self.dialect.path}",
                fix="check endpoint and dialect in evalkit.toml, and the server's own log",
            ) from None
        if problem := squashed(raw, on, identity=bool(self.spec.family.setting("identity"))):
            raise self._refuse(problem, self.dialect.raw, "squashed", max(raw) - min(raw))
        if not self._counts:
            self._check_length()

    def _check_length(self) -> None:
        """Refuse a server that cuts conversations of `max_length` and does not say so.

        One that refuses them is none: it fails their rows by name.
        """
        most = self._words()
        for last in (True, False):
            try:
                if self._tells_apart(most, last=last):
                    continue
                cut = self._words_read(most, last=last)
            except ReplyError:
                return
            sent, read = (len(self._filled(ENDS[0], n, last=last).ids) for n in (most, cut))
            raise self._refuse(
                f"of {sent} tokens it reads about {read}: conversations of that length that differ "
                f"in the {'last' if last else 'first'} word of the answer get one number",
                OTHER_TOKENS[False][1],
                OTHER_TOKENS[False][0],
                max(1, sent - read),
            )

    def _words(self) -> int:
        """How many words of filling make an answer about as long as may be sent."""
        few, many = (len(self._filled(ENDS[0], n, last=True).ids) for n in (0, FILLER))
        if not 0 < few < many:
            return 0
        words = (self.spec.max_length - few) * FILLER // (many - few)
        while words and any(
            row.problem or row.cut
            for row in (self._filled(end, words, last=at) for end in ENDS for at in (True, False))
        ):
            words -= 1 + words // 100
        return words

    def _words_read(self, most: int, *, last: bool) -> int:
        """From how many words of filling on that word is heard no more."""
        return bisect_left(range(most), x=True, key=lambda n: not self._tells_apart(n, last=last))

    def _tells_apart(self, words: int, *, last: bool) -> bool:
        """Whether one of several words, at the last or first place of an answer, is heard."""
        scores = (self.ask([self._filled(end, words, last=last)])[0] for end in ENDS)
        first = next(scores)
        return any(score != first for score in scores)

    def _filled(self, end: str, words: int, *, last: bool) -> Rendered:
        filling = ["and"] * words
        answer = " ".join([*filling, end] if last else [end, *filling])
        return self.render([(*QUESTION, Message("assistant", answer))])[0]

    def _ask(self, rows: Sequence[Rendered], *, raw: bool) -> list[float]:
        model = self.endpoint.model
        reply = self.client.ask(self.dialect.path, self.dialect.body(Request(model, rows, raw)))
        check_same_model(reply, model)
        label = str(self.spec.family.setting("label"))
        scores = self.dialect.scores(reply, len(rows), label)
        read, sent = self.dialect.tokens(reply), sum(len(row.ids) for row in rows)
        self._counts = read is not None
        if read is not None and read != sent:
            raise TokenCountError(read, sent)
        return scores

    def _check_served(self) -> None:
        if not self.dialect.about:
            return
        try:
            reply = self.client.ask(self.dialect.about)
            found = self.dialect.served(reply, self.endpoint.model)
        except ReplyError as error:
            raise MissingError(
                f"the server of reward model {self.spec.name!r} does not say what it serves: "
                f"{error}",
                where=f"{self.endpoint.url}{self.dialect.about}",
                fix="check endpoint and dialect in evalkit.toml",
            ) from None
        if self.endpoint.model not in found.models:
            raise MissingError(
                f"{self.endpoint.model!r} is not served; evalkit never takes another model in its "
                "place",
                where=f"{self.endpoint.url} serves {listing([m[:80] for m in found.models])}",
                fix="serve it, or correct model in evalkit.toml",
            )
        self._check_details(found.max_length, found.revision, found.dtype, found.problem)

    def _check_details(
        self, max_length: int | None, revision: str, dtype: str, problem: str
    ) -> None:
        """What a server says of its model holds against what is declared."""
        spec, declared = self.spec, self.endpoint.revision
        if problem:
            raise self._refuse(problem, "start it as a reward model")
        if max_length is not None and max_length < spec.max_length:
            raise self._refuse(
                f"it takes {max_length} tokens, and max_length is {spec.max_length}",
                f"max_length = {max_length} in evalkit.toml, or a server that takes more",
            )
        if revision and not declared:
            sys.stderr.write(
                f"note: the server of {spec.name!r} states revision {printable(revision[:64])}; "
                "declare it in evalkit.toml, and what it serves is part of the identity\n"
            )
        short = is_commit(declared) and revision.startswith(declared)
        if revision and declared and revision != declared and not short:
            raise self._refuse(
                f"it serves revision {revision[:64]!r}, and {declared!r} is declared",
                "serve the declared one, or correct revision in evalkit.toml",
            )
        if dtype in DTYPES and dtype != spec.dtype:
            raise self._refuse(
                f"it computes in {dtype}, and {spec.dtype} is declared",
                f'dtype = "{dtype}" in evalkit.toml, or another server',
            )

    def _refuse(self, why: str, fix: str, code: str = "", number: float = 0.0) -> RefusedModelError:
        return RefusedModelError(
            f"the server of reward model {self.spec.name!r} is refused: {why}",
            where=self.endpoint.url,
            fix=fix,
            code=code,
            number=number,
        )


def squashed(raw: Sequence[float], on: Sequence[float], *, identity: bool) -> str:
    """Why scores of several conversations are no raw ones; empty if they are shown to be.

    Args:
        raw: With the activation off.
        on: With it on; the same numbers where a server has no such switch.
        identity: Whether the user says that there is no activation.
    """
    if len(set(raw)) == 1:
        return f"it gives {raw[0]!r} to every conversation; a softmax over one label gives 1.0"
    if any(not 0 <= score <= 1 for score in raw) or identity:
        return ""
    pairs = list(zip(raw, on, strict=True))
    logistic = all(abs(1 / (1 + math.exp(-r)) - s) <= NEAR for r, s in pairs)
    if logistic and any(abs(r - s) > NEAR for r, s in pairs):
        return ""
    return (
        "all of its scores lie between 0 and 1, as if squashed, and asking for raw ones changes "
        "nothing; if its config states a regression without any activation, say so with "
        "parameters = { identity = true }"
    )


def load(spec: RewardModelSpec, *, device: str = "auto") -> ServedRewardModel:
    """A served reward model, shown to give raw scores of the model that is declared.

    Args:
        spec: Which one.
        device: Without effect: the server has its own.

    Raises:
        MissingError: No server, no right, or another model.
        RefusedModelError: Its scores are not raw, or not of what is declared.
    """
    del device
    model = ServedRewardModel(spec, Client(endpoint_of(spec)))
    model.check()
    return model

"""A served reward model of one number a conversation: checked when it is loaded, then asked.

That its scores are raw is not believed but shown: with the activation off and on, or by scores
that nothing which squashes can give. That it reads all of a conversation is shown by the tokens it
counts, or where it counts none, by the longest conversations and their ends. That it keeps the rows
of one request apart is shown by rows asked for alone and together, and that it is still the same by
the same request after each batch.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evalkit.data import Item, Message
from evalkit.errors import IntegrityError, MissingError, RefusedModelError
from evalkit.reward_models import Rendered
from evalkit.reward_models.remote.asking import RemoteRewardModel, check_same_model, endpoint_of
from evalkit.reward_models.remote.client import Client, ReplyError
from evalkit.reward_models.remote.dialects import Request, Served, dialects
from evalkit.reward_models.remote.probes import (
    ENDS,
    FILLER,
    GROSS,
    PROBES,
    QUESTION,
    Fault,
    mixed_up,
    squashed,
)
from evalkit.reward_models.remote.texts import TextRenderer
from evalkit.reward_models.settings import DTYPES
from evalkit.reward_models.spec import RewardModelSpec, is_commit
from evalkit.reward_models.tokenizer import load_tokenizer
from evalkit.text import listing, printable

ROWS = 32  # of one request: what text-embeddings-inference and Infinity take unless told otherwise
LEAST_ROWS = 8  # so that a batch of what measures noise is a batch for the server too
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
# What is wrong with its numbers -> the fix; for `squashed` each dialect has its own.
FIXES = {
    "constant": "look at what it serves: a head of zeros, or one that was never loaded",
    "row-order": "mend the server: its results must stand in the order of the rows it is sent",
    "moves-with-batch": "mend the server: it must pool by the attention mask, and mask padding",
}


class TokenCountError(ReplyError):
    """A server that read more tokens than it was sent, or fewer.

    Attributes:
        extra: How many more; below 0 for fewer.
    """

    def __init__(self, read: int, sent: int) -> None:
        super().__init__(f"the server read {read} tokens where {sent} are to be scored")
        self.extra = read - sent


class Seal(NamedTuple):
    """By what a server is known again.

    Attributes:
        rows: Of one request.
        scores: What they got when it was checked.
        far: From which distance on a score is another one.
        served: What the server said of itself.
    """

    rows: list[Rendered]
    scores: list[float]
    far: float
    served: Served | None


class ServedRewardModel(RemoteRewardModel):
    """A reward model behind one of `dialects`.

    Args:
        spec: Which one.
        client: Asks its server.

    Attributes:
        counts: Whether its server says how many tokens it read.
    """

    def __init__(self, spec: RewardModelSpec, client: Client) -> None:
        super().__init__(spec, endpoint_of(spec), client)
        self.dialect = dialects()[spec.family.name]
        self._renderer = TextRenderer(spec, load_tokenizer(spec), self.dialect)
        self.counts = True
        self._seal: Seal | None = None

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation, and the texts a server without ids is sent."""
        return self._renderer.render(items)

    def requests(self, batch: Sequence[Rendered]) -> list[list[int]]:
        """As many requests as may be under way; for a reranker, rows of one question each."""
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(batch):
            groups.setdefault(row.texts[0] if self.dialect.reads == "pair" else "", []).append(i)
        each = math.ceil(len(batch) / self.endpoint.concurrency)
        size = min(ROWS, max(LEAST_ROWS, each))
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
            RefusedModelError: Its numbers are squashed or move with the rows beside them, it reads
                other tokens than it is sent or not all of them, or its texts cannot be told
                exactly.
        """
        served = self._check_served()
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
        self._check_fault(squashed(raw, on, identity=bool(self.spec.family.setting("identity"))))
        self._seal = self._sealed(rows, raw, served)
        if not self.counts:
            self._check_length()

    def _sealed(self, rows: list[Rendered], alone: list[float], served: Served | None) -> Seal:
        """Ask for rows in one request that were asked for alone, and keep what came.

        Raises:
            RefusedModelError: Their order or their company moves their scores.
        """
        asked = [*rows, *rows]  # which neither reversing nor sorting leaves as they are
        far = GROSS * float(np.ptp(alone))
        while len(asked) > 1:
            try:
                together = self.ask(asked)
            except ReplyError:  # such a server gets batches of several rows by halves, too
                asked = asked[: len(asked) // 2]
                continue
            self._check_fault(mixed_up(alone, together))
            return Seal(asked, together, far, served)
        return Seal(rows[:1], alone[:1], far, served)

    def _watch(self, outcomes: Sequence[list[float] | ReplyError]) -> None:
        super()._watch(outcomes)
        if self._seal and not all(isinstance(outcome, ReplyError) for outcome in outcomes):
            self._check_same(self._seal)

    def _check_same(self, seal: Seal) -> None:
        """Refuse the rewards of a batch after which the server is not the one that was checked.

        A connection that is lost shows it no more surely than a server that was replaced between
        two requests: so it is asked after each batch, which is not stored before.

        Raises:
            IntegrityError: It says of itself, or of the same rows, something else.
            ReplyError: It cannot be told.
        """
        served = self._says()
        try:
            scores = self.ask(seal.rows)
        except TokenCountError as error:
            raise self._changed(str(error)) from None
        if served and seal.served and served._replace(models=()) != seal.served._replace(models=()):
            raise self._changed(f"{seal.served} before, {served} now")
        if served and self.endpoint.model not in served.models:
            raise self._changed(f"it serves {listing([m[:80] for m in served.models])} now")
        moved = np.abs(np.array(scores) - seal.scores)
        if moved.max() > seal.far:
            at = int(moved.argmax())
            raise self._changed(f"a probe had {seal.scores[at]!r} and has {scores[at]!r} now")

    def _changed(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"the server of reward model {self.spec.name!r} is not the one any more that was "
            f"checked when it was loaded: {why}; the batch under way is not kept",
            where=self.endpoint.url,
            fix="serve the declared model again; what was scored before is kept, the same command "
            "goes on from there",
        )

    def _check_fault(self, fault: Fault | None) -> None:
        if fault:
            fix = FIXES.get(fault.code, self.dialect.raw)
            raise self._refuse(fault.what, fix, fault.code, fault.number)

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
        check_same_model(reply, model, f"{self.endpoint.url}{self.dialect.path}")
        label = str(self.spec.family.setting("label"))
        scores = self.dialect.scores(reply, len(rows), label)
        read, sent = self.dialect.tokens(reply), sum(len(row.ids) for row in rows)
        self.counts = read is not None
        if read is not None and read != sent:
            raise TokenCountError(read, sent)
        return scores

    def _says(self) -> Served | None:
        """What the server says of itself, if there is a way to ask.

        Raises:
            ReplyError: Nothing that can be read.
        """
        if not self.dialect.about:
            return None
        return self.dialect.served(self.client.ask(self.dialect.about), self.endpoint.model)

    def _check_served(self) -> Served | None:
        try:
            found = self._says()
        except ReplyError as error:
            raise MissingError(
                f"the server of reward model {self.spec.name!r} does not say what it serves: "
                f"{error}",
                where=f"{self.endpoint.url}{self.dialect.about}",
                fix="check endpoint and dialect in evalkit.toml",
            ) from None
        if found is None:
            return None
        if self.endpoint.model not in found.models:
            raise MissingError(
                f"{self.endpoint.model!r} is not served; evalkit never takes another model in its "
                "place",
                where=f"{self.endpoint.url} serves {listing([m[:80] for m in found.models])}",
                fix="serve it, or correct model in evalkit.toml",
            )
        self._check_details(found.max_length, found.revision, found.dtype, found.problem)
        return found

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

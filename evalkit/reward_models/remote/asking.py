"""What the reward models of all servers share: requests side by side, and a server that went away.

A request that fails fails its rows alone. Where nothing comes back batch after batch, the server
is asked for something it has answered before; if that fails too, the run stops.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from evalkit.data import FloatArray, Item, ServerFailed, Unreadable
from evalkit.errors import MissingError
from evalkit.reward_models import PartialBatchError, Rendered
from evalkit.reward_models.remote.client import Client, ReplyError
from evalkit.reward_models.spec import Endpoint, RewardModelSpec

SILENT_BATCHES = 3
# behind a name: a revision as `transformers serve` adds it, or the date of a snapshot
SUFFIX = re.compile(r"@.*|-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})", re.ASCII)


class UnreadableError(ReplyError):
    """A reply that came as it should, and whose text holds no verdict."""


class RemoteRewardModel(ABC):
    """A reward model that is asked row by row, or several rows at once.

    Args:
        spec: Which one.
        endpoint: Of the spec.
        client: Asks its server.

    Attributes:
        device: The server.
    """

    def __init__(self, spec: RewardModelSpec, endpoint: Endpoint, client: Client) -> None:
        self.spec, self.endpoint, self.client = spec, endpoint, client
        self.device = endpoint.url
        self._silent = 0

    @abstractmethod
    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """What is sent of each item, or why it cannot be."""

    @abstractmethod
    def requests(self, batch: Sequence[Rendered]) -> list[list[int]]:
        """Row numbers that go into one request each."""

    @abstractmethod
    def ask(self, rows: Sequence[Rendered]) -> list[float]:
        """The numbers of the rows of one request.

        Raises:
            ReplyError: The request failed.
            MissingError: No request can do better.
        """

    @abstractmethod
    def probe(self) -> None:
        """Ask for something the server has answered before.

        Raises:
            ReplyError: It does not any more.
        """

    def rewards(self, batch: Sequence[Rendered]) -> FloatArray:
        """(len(batch), 1) rewards, in the order of the batch.

        Raises:
            PartialBatchError: Requests failed, or a judge gave no verdict. Rows of a request of
                several are to be asked again, in smaller ones.
            MissingError: The server cannot be used any more.
        """
        requests = self.requests(batch)
        outcomes = self._side_by_side([[batch[i] for i in rows] for rows in requests])
        try:
            self._watch(outcomes)
        except ReplyError as error:  # whose rewards these are cannot be told; of fewer rows it may
            if len(batch) > 1:
                raise
            outcomes = [error]
        found = np.full((len(batch), 1), np.nan)
        reasons: dict[int, str] = {}
        again: list[int] = []
        for rows, outcome in zip(requests, outcomes, strict=True):
            if not isinstance(outcome, ReplyError):
                found[rows, 0] = outcome
            elif len(rows) > 1:
                again += rows
            else:
                reasons[rows[0]] = _why(outcome)
        if reasons or again:
            raise PartialBatchError(found, reasons, sorted(again))
        return found

    def _side_by_side(self, requests: Sequence[list[Rendered]]) -> list[list[float] | ReplyError]:
        pool = ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            return list(pool.map(self._outcome, requests))
        except BaseException:
            self.client.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _outcome(self, rows: list[Rendered]) -> list[float] | ReplyError:
        try:
            return self.ask(rows)
        except ReplyError as error:
            return error

    def _watch(self, outcomes: Sequence[list[float] | ReplyError]) -> None:
        """Stop where a server has gone bad for all rows, and not for these alone."""
        failed = [o for o in outcomes if isinstance(o, ReplyError)]
        if len(failed) < len(outcomes) or any(isinstance(o, UnreadableError) for o in failed):
            self._silent = 0
            return
        self._silent += 1
        if self._silent < SILENT_BATCHES:
            return
        try:
            self.probe()
        except ReplyError as error:
            raise MissingError(
                f"the server of reward model {self.spec.name!r} answers nothing usable any more, "
                f"not even what it answered before: {error}",
                where=self.endpoint.url,
                fix="mend or restart it; what was scored is kept, the same command goes on from "
                "there",
            ) from None
        self._silent = 0


def _why(failure: ReplyError) -> str:
    """Why a row has no reward, of its own kind."""
    if isinstance(failure, UnreadableError):
        return Unreadable(failure)
    return ServerFailed(f"the server failed: {failure}")


def endpoint_of(spec: RewardModelSpec) -> Endpoint:
    """The endpoint of a served reward model, which it has."""
    if spec.endpoint is None:
        raise ValueError(f"reward model {spec.name!r} is not served")
    return spec.endpoint


def check_same_model(reply: object, model: str, where: str = "") -> None:
    """Stop where a server answers as another model than it was asked for.

    A revision behind an `@`, or the date of a snapshot, is still the model.

    Args:
        reply: As JSON.
        model: Asked for.
        where: The address that was asked.

    Raises:
        MissingError: Naming both.
    """
    said = reply.get("model") if isinstance(reply, dict) else None
    if not isinstance(said, str):
        return
    if said == model or (said.startswith(model) and SUFFIX.fullmatch(said[len(model) :])):
        return
    raise MissingError(
        f"the server answers as {said[:80]!r}, where {model!r} was asked for",
        where=where,
        fix="serve the model itself, or correct model in evalkit.toml",
    )

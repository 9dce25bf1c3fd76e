"""A reward model without weights, and the child processes that tests kill, starve and race.

Run as `python -m tests.fake_reward_model FUNCTION ARGUMENT ...` from the repository's root.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from evalkit.data import FloatArray, Item, Message, Messages
from evalkit.errors import EvalkitError
from evalkit.reward_models import Rendered, RewardModel, RewardModelMemoryError
from evalkit.reward_models.families import Family, Output
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, score
from evalkit.store import Store, StoredReward

ROOT = Path(__file__).parents[1]
BATCH = 16


class FakeRewardModel:
    """Token ids are the UTF-8 bytes of the turns, a reward is a hash of the ids.

    Args:
        cap: Padded tokens above which a batch does not fit into memory.
        poisoned: Texts whose conversations make any batch that holds them fail.
        nonfinite: Text -> the reward of conversations with it.
        unrenderable: Texts whose conversations have no token ids.
        drift: Added to every reward.
        interrupt_at: Number of the forward call at which the user presses Ctrl-C.
    """

    device = "cpu"

    def __init__(
        self,
        *,
        cap: float = float("inf"),
        poisoned: Collection[str] = (),
        nonfinite: Mapping[str, float] | None = None,
        unrenderable: Collection[str] = (),
        drift: float = 0.0,
        interrupt_at: int | None = None,
    ) -> None:
        self.cap, self.poisoned, self.nonfinite = cap, poisoned, nonfinite or {}
        self.unrenderable, self.drift, self.interrupt_at = unrenderable, drift, interrupt_at
        self.loads = self.calls = self.rows = self.memory_errors = 0

    def load(self, spec: RewardModelSpec, *, device: str = "auto") -> RewardModel:
        """Stands in for `evalkit.reward_models.load`."""
        self.loads += 1
        return self

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        texts = ["\n".join(f"{m.role}:{m.content}" for m in messages) for messages in items]
        return [
            Rendered([], problem="no ids")
            if any(mark in text for mark in self.unrenderable)
            else Rendered(list(text.encode()))
            for text in texts
        ]

    def rewards(self, batch: Sequence[Rendered]) -> FloatArray:
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        if len(batch) * max(len(row.ids) for row in batch) > self.cap:
            self.memory_errors += 1
            raise RewardModelMemoryError("out of memory: tried to allocate 1 PiB\nand more")
        texts = [bytes(row.ids).decode() for row in batch]
        if any(mark in text for text in texts for mark in self.poisoned):
            raise RuntimeError("device-side assert\nand more")
        self.rows += len(batch)
        return np.array([[self._reward(text)] for text in texts])

    def _reward(self, text: str) -> float:
        for mark, value in self.nonfinite.items():
            if mark in text:
                return value
        return hashed(text) + self.drift


def hashed(text: str) -> float:
    """A number in [-8, 8) that no other text shares."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**44 - 8


def fake_spec(
    name: str = "fake",
    *,
    dtype: str = "float32",
    output: Output = "bradley-terry",
    attributes: tuple[str, ...] = (),
) -> RewardModelSpec:
    """A reward model without files; another name is another fingerprint."""
    weights = hashlib.sha256(name.encode()).hexdigest()
    family = Family("fake", "fake", output, {}, attributes)
    return RewardModelSpec(
        name, Path("/nowhere"), family, (weights,), "c", "t", "", dtype, 4096, "error"
    )


def chats(*answers: str) -> list[Messages]:
    """One conversation per answer."""
    return [(Message("user", "Q"), Message("assistant", answer)) for answer in answers]


def expected(messages: Messages) -> float:
    """The reward of a conversation."""
    return hashed("\n".join(f"{m.role}:{m.content}" for m in messages))


def stored(number: int, reward: float | None = None) -> StoredReward:
    """A row as a store keeps it, every other one with attributes."""
    key = hashlib.sha256(f"conversation {number}".encode()).hexdigest()
    tokens = hashlib.sha256(f"tokens {number}".encode()).hexdigest()
    attributes = (number / 3, -0.5) if number % 2 else ()
    value = hashed(key) if reward is None else reward
    return StoredReward(key, value, number + 3, 0, tokens, attributes)


def add(store: Store, rows: Sequence[StoredReward], spec: RewardModelSpec | None = None) -> None:
    """Store a batch under a fake reward model."""
    spec = spec or fake_spec()
    store.add(spec.fingerprint, spec.manifest, rows, tolerance=spec.tolerance, provenance={})


def start(function: Callable[..., None], *arguments: object, **popen: object) -> subprocess.Popen:
    """Run one of the functions below in a process of its own."""
    command = [sys.executable, "-m", "tests.fake_reward_model", function.__name__]
    return subprocess.Popen([*command, *map(str, arguments)], cwd=ROOT, text=True, **popen)


# What runs in child processes; `print` tells the parent.


def write_rows(path: str, first: str, last: str) -> None:
    """Store rows in batches, from the moment the parent says so."""
    print("ready", flush=True)
    sys.stdin.readline()
    with Store(Path(path)) as store:
        for begin in range(int(first), int(last), BATCH):
            add(store, [stored(n) for n in range(begin, min(begin + BATCH, int(last)))])


def fill_disk(path: str, size: str) -> None:
    """Store rows until no file may grow any more; print how many are acknowledged."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    with Store(Path(path)) as store:
        for begin in range(0, 100_000, BATCH):
            try:
                add(store, [stored(n) for n in range(begin, begin + BATCH)])
            except EvalkitError as error:
                known = store.lookup(fake_spec().fingerprint, [stored(0).conversation])
                print(json.dumps([begin, error.exit_code, len(known)]))
                return


def without_write_access(path: str) -> None:
    """Use a store that belongs to somebody else; print what came of it."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db") as store:
        add(store, [stored(0)])  # imports what another user may not be able to read
    if os.getuid() == 0:
        os.setuid(65534)
    fingerprint = fake_spec().fingerprint
    keys = [stored(n).conversation for n in range(3)]
    with Store(Path(path)) as store:
        before = [row.reward for row in store.lookup(fingerprint, keys).values()]
        add(store, [stored(2)])
        after = store.lookup(fingerprint, keys).keys()
        print(json.dumps([store.writable, sorted(before), sorted(after)]))


class _Acknowledging(Store):
    """Prints each batch when it is durable, or, as a control, before."""

    early = False

    def add(self, fingerprint, manifest, rows, **how) -> None:
        if not self.early:
            super().add(fingerprint, manifest, rows, **how)
        print("".join(f"{row.conversation} {row.reward!r}\n" for row in rows), end="", flush=True)
        if self.early:
            super().add(fingerprint, manifest, rows, **how)


def score_until_killed(path: str, count: str, when: str) -> None:
    """Score conversations of equal length, batch by batch; stderr says when it starts."""
    conversations = chats(*(f"{number:06}" for number in range(int(count))))
    length = len(FakeRewardModel().render(conversations[:1])[0].ids)
    with _Acknowledging(Path(path)) as store:
        store.early = when == "early"
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        settings = RunSettings(
            batch_tokens=BATCH * length, progress=False, load=FakeRewardModel().load
        )
        score(fake_spec(), conversations, store, settings=settings)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

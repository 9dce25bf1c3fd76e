"""`kill -9` at random moments of a scoring run loses nothing that was acknowledged."""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evalkit.data import conversation_key
from evalkit.scoring import RunSettings, score
from evalkit.store import Store
from tests.fake_reward_model import (
    BATCH,
    FakeRewardModel,
    chats,
    expected,
    fake_spec,
    score_until_killed,
    start,
)

COUNT = BATCH * 60
CONVERSATIONS = chats(*(f"{number:06}" for number in range(COUNT)))
TRUTH = {conversation_key(messages): expected(messages) for messages in CONVERSATIONS}
FINGERPRINT = fake_spec().fingerprint


@dataclass
class Tally:
    """What became of the rewards of many killed runs."""

    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    partial: int = 0
    hot_journals: int = 0
    complaints: list[str] = field(default_factory=list)


def _run(path: Path, when: str, seconds: float | None, tally: Tally) -> dict[str, float]:
    """Score in a child, killed after `seconds`; the rewards that it acknowledged."""
    output = path.with_name("acknowledged")
    with output.open("w") as file:
        child = start(score_until_killed, path, COUNT, when, stdout=file, stderr=subprocess.PIPE)
        child.stderr.readline()
        if seconds is not None:
            time.sleep(seconds)
            child.kill()
        tally.complaints += [text for text in child.communicate()[1:] if text]
    lines = output.read_text().splitlines(keepends=True)
    return {
        key: float(reward)
        for key, reward in (line.split() for line in lines if line.endswith("\n"))
    }


def _kill_often(folder: Path, kills: int, when: str, seed: int) -> Tally:
    """Kill runs that resume each other; a finished store is checked and begun anew."""
    numbers, tally = random.Random(seed), Tally()
    begun = time.monotonic()
    _run(folder / "timing.db", when, None, tally)
    whole = time.monotonic() - begun
    known: dict[str, float] = {}
    path = folder / "store 0.db"
    for kill in range(kills):
        acknowledged = _run(path, when, numbers.uniform(0, whole / 4), tally)
        journal = path.with_name(path.name + "-journal")
        tally.hot_journals += journal.exists() and journal.stat().st_size > 0
        with Store(path) as store:
            found = {k: row.reward for k, row in store.lookup(FINGERPRINT, TRUTH).items()}
            assert store.damaged == 0
        tally.acknowledged += len(acknowledged)
        tally.lost += len((known | acknowledged).keys() - found.keys())
        tally.wrong += len(found.items() - TRUTH.items())
        tally.wrong += len(acknowledged.items() - TRUTH.items())
        tally.partial += (len(found) - len(known)) % BATCH > 0
        known = found
        if len(known) == COUNT:
            path, known = folder / f"store {kill + 1}.db", {}
    with Store(path) as store:
        settings = RunSettings(progress=False, load=FakeRewardModel().load)
        scored = score(fake_spec(), CONVERSATIONS, store, settings=settings)
    assert {key: row.reward for key, row in scored.rewards.items()} == TRUTH
    print(f"{kills} kills, acknowledging {when}: {tally}")
    return tally


@pytest.mark.parametrize("kills", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_kill_loses_nothing_acknowledged_and_a_rerun_gives_the_same_rewards(tmp_path, kills):
    tally = _kill_often(tmp_path, kills, "late", seed=kills)
    assert (tally.lost, tally.wrong, tally.partial, tally.complaints) == (0, 0, 0, [])
    assert tally.acknowledged > kills * BATCH
    assert tally.hot_journals > 0  # some of them struck inside a commit


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_the_study_notices_a_store_that_acknowledges_before_it_commits(tmp_path, kills):
    tally = _kill_often(tmp_path, kills, "early", seed=kills)
    assert tally.lost > 0
    assert tally.wrong == 0

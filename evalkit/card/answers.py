"""The completions a card is measured on: those of each prompt side by side, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from evalkit.data import FloatArray, IntArray, Item, Messages, Pair, conversation, item_key
from evalkit.errors import InputError
from evalkit.scoring import Scored
from evalkit.sets import NamedSet, read_set
from evalkit.text import listing
from evalkit.workspace import Role, Workspace


@dataclass(frozen=True)
class Answers:
    """P prompts with their distinct completions, in an order that follows from their content.

    Prompts are told by their messages: the same one under two ids is one prompt here.

    Attributes:
        prompts: (P,) messages.
        completions: (P,) distinct texts, at most R of a prompt.
        read: Completions before equal ones of a prompt became one.
    """

    prompts: tuple[Messages, ...]
    completions: tuple[tuple[str, ...], ...]
    read: int

    @cached_property
    def count(self) -> int:
        """Distinct completions."""
        return sum(map(len, self.completions))

    def conversations(self) -> list[Messages]:
        """Each prompt with each of its completions."""
        return [
            conversation(prompt, text)
            for prompt, texts in zip(self.prompts, self.completions, strict=True)
            for text in texts
        ]

    def ordered_pairs(self) -> list[Pair]:
        """Every two completions of a prompt, in both orders."""
        return [
            Pair(prompt, first, second)
            for prompt, texts in zip(self.prompts, self.completions, strict=True)
            for first, second in permutations(texts, 2)
        ]

    def table(self, value: Callable[[Messages, str], float]) -> FloatArray:
        """(P, R) a value of each completion; NaN where a prompt has fewer."""
        found = np.full((len(self.prompts), max(map(len, self.completions), default=0)), np.nan)
        for row, (prompt, texts) in enumerate(zip(self.prompts, self.completions, strict=True)):
            for column, text in enumerate(texts):
                found[row, column] = value(prompt, text)
        return found

    def items(self, *, pairwise: bool) -> list[Item]:
        """What a reward model scores of them."""
        return [*self.ordered_pairs()] if pairwise else [*self.conversations()]


@dataclass(frozen=True, slots=True)
class BothOrders:
    """What a pair-preference model says of N pairs that it scored in both orders.

    Attributes:
        prompt: (N,) row of the answers.
        forward: (N,) log-odds of the first against the second, the first being read first.
        backward: (N,) log-odds of the second against the first, the second being read first.
        difference: (N,) the first's characters less the second's.
    """

    prompt: IntArray
    forward: FloatArray
    backward: FloatArray
    difference: FloatArray


def read_answers(
    names: Sequence[str], workspace: Workspace, benchmark: str | None
) -> tuple[list[NamedSet], Answers]:
    """Read completion sets, checkpoints' or references'.

    Args:
        names: Names or paths; none for all that answers the benchmark.
        workspace: Where names are looked up.
        benchmark: Whose prompts ids stand for; None for the workspace's own.

    Raises:
        InputError: Nothing to read, an unknown name, or a malformed file.
        IntegrityError: A reference that is not what its manifest says.
    """
    chosen = list(dict.fromkeys(names)) or _answering(
        benchmark or workspace.default("benchmark"), workspace
    )
    sets = [read_set(name, _role(name, workspace), workspace, benchmark) for name in chosen]
    return sets, _merged(sets)


def both_orders(answers: Answers, scored: Scored) -> BothOrders:
    """The log-odds of every two completions of a prompt that have them in both orders."""
    rows: list[tuple[int, float, float, int]] = []
    for row, (prompt, texts) in enumerate(zip(answers.prompts, answers.completions, strict=True)):
        for i, first in enumerate(texts):
            for second in texts[i + 1 :]:
                orders = (Pair(prompt, first, second), Pair(prompt, second, first))
                known = [scored.rewards.get(item_key(pair)) for pair in orders]
                odds = [found.reward for found in known if found is not None]
                if len(odds) == len(orders):
                    rows.append((row, odds[0], odds[1], len(first) - len(second)))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return BothOrders(columns[0].astype(np.int64), columns[1], columns[2], columns[3])


def _merged(sets: Sequence[NamedSet]) -> Answers:
    texts: dict[Messages, set[str]] = {}
    read = 0
    for found in sets:
        for prompt, completion in found.completions.answers():
            texts.setdefault(prompt.messages, set()).add(completion)
            read += 1
    prompts = tuple(sorted(texts))
    return Answers(prompts, tuple(tuple(sorted(texts[p])) for p in prompts), read)


def _answering(benchmark: str | None, workspace: Workspace) -> list[str]:
    """Every named set that answers a benchmark."""
    if benchmark is None:
        raise InputError(
            "no completions are named", fix="--data NAME (repeatable), or --benchmark NAME"
        )
    workspace.benchmark_prompts(benchmark)  # refuses one that is not there
    found = [
        name
        for name in workspace.names()
        if workspace.completion_set(name, _role(name, workspace)).benchmark == benchmark
    ]
    if not found:
        raise InputError(
            f"nothing here answers benchmark {benchmark!r}",
            where=f"known sets: {listing(workspace.names())}",
            fix="name completions: --data NAME or FILE",
        )
    return found


def _role(name: str, workspace: Workspace) -> Role:
    references = {*workspace.reference_names(), *workspace.config["refs"]}
    return "reference" if name in references else "checkpoint"

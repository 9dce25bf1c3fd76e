"""Scoring speed of demo-rm: evalkit's batches against how peers batch, and the machine's limit.

The texts are made up here, with lengths spread like those of real answers (log-normal, median 300
tokens). Rows: one conversation at a time; eight in file order, as reward-bench batches; a fixed
batch of 32 in file order, as sentence-transformers batches; evalkit's length-sorted
token budget; and
the limit: the same number of tokens through the linear layers alone, without padding or attention.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import evalkit.reward_models
from evalkit.data import Message
from evalkit.reward_models import load
from evalkit.reward_models.describe import describe
from evalkit.scoring.batches import plan

DEMO_RM = Path(evalkit.reward_models.__file__).parent / "demo-rm"
WORDS = ["time", "person", "year", "way", "day", "thing", "world", "life", "hand", "part", "week"]


def conversations(n: int, seed: int) -> list[tuple[Message, ...]]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(200), 0.7, n), 5, 900).astype(int)
    return [
        (Message("user", "Tell me more."), Message("assistant", " ".join(rng.choice(WORDS, k))))
        for k in lengths
    ]


def in_order(ids: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


def linear_layers(model: torch.nn.Module, tokens: int) -> None:
    """The matrix products of `tokens` tokens, and nothing else."""
    with torch.inference_mode():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer.out_features > 1:
                for start in range(0, tokens, 4096):
                    rows = min(4096, tokens - start)
                    layer(torch.zeros(rows, layer.in_features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spec = describe(DEMO_RM, "demo-rm", lambda p: hashlib.sha256(p.read_bytes()).hexdigest(), {})
    model = load(spec, device="cpu")
    ids = [item.ids for item in model.render(conversations(options.rows, 0))]
    tokens = sum(map(len, ids))
    by_key = {str(i): row for i, row in enumerate(ids)}
    sorted_batches = [
        [by_key[key] for key in batch]
        for batch in plan({key: len(row) for key, row in by_key.items()}, 2048)
    ]
    variants: dict[str, list[list[list[int]]]] = {
        "one at a time": list(in_order(ids, 1)),
        "8 in file order": list(in_order(ids, 8)),
        "32 in file order": list(in_order(ids, 32)),
        "evalkit": sorted_batches,
    }
    runs: dict[str, Callable[[], object]] = {
        name: lambda batches=batches: [model.rewards(batch) for batch in batches]
        for name, batches in variants.items()
    }
    runs["linear layers alone"] = lambda: linear_layers(model.model, tokens)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(f"{len(ids)} rows, {tokens:,} tokens, {torch.get_num_threads()} threads, float32")
    print(f"{'':22}{'padded/real':>12}{'rows/s':>9}{'time / evalkit (min–max)':>28}")
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["evalkit"])
        waste = "" if name not in variants else f"{padded(variants[name]) / tokens:.2f}"
        print(
            f"{name:22}{waste:>12}{len(ids) / np.median(times):9.1f}"
            f"{np.median(ratios):12.2f} ({ratios.min():.2f}–{ratios.max():.2f})"
        )


def padded(batches: Sequence[Sequence[list[int]]]) -> int:
    return sum(len(batch) * max(map(len, batch)) for batch in batches)


if __name__ == "__main__":
    main()

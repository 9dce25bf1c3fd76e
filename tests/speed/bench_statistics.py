"""Bootstrap and Bradley-Terry at scale, against the loops others run; prints ratios.

.venv/bin/python tests/speed/bench_statistics.py
"""

from __future__ import annotations

import resource
import time

import numpy as np

from evalkit.statistics.intervals import mean
from evalkit.statistics.resampling import weight_blocks


def seconds(run, repeats=3):
    """The least of a few runs, both sides interleaved by the caller's order."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def many_models(models=52, prompts=805, resamples=10_000):
    """Every model's mean in every resample: one product, against a loop that takes rows again."""
    rng = np.random.default_rng(0)
    outcomes = rng.random((prompts, models))
    keys = rng.integers(0, 2**64, size=prompts, dtype=np.uint64)

    def ours():
        columns = np.column_stack([outcomes, np.ones(prompts)])
        sums = np.concatenate([block @ columns for block in weight_blocks(keys, resamples)])
        return sums[:, :-1] / sums[:, -1:]

    rounds = 20  # of the loop; the rest would be as slow
    frame_like = {m: outcomes[:, m] for m in range(models)}

    def loop():
        # arena-hard's way: for each round and model draw rows with replacement, refit strengths
        generator = np.random.default_rng(1)
        for _ in range(rounds):
            wins = np.array([generator.choice(x, prompts).mean() for x in frame_like.values()])
            strengths = np.zeros(models)
            for _ in range(50):  # LBFGS in the original; plain ascent is kinder to it
                p = 1 / (1 + np.exp(-strengths))
                strengths += 4 * (wins - p)

    mine, theirs = seconds(ours), seconds(loop) / rounds * resamples
    print(f"{models} models x {prompts} prompts x {resamples} resamples: loop / ours = "
          f"{theirs / mine:.0f} ({mine:.2f} s; the loop's {rounds} rounds carried on)")  # fmt: skip


def many_prompts(prompts=1_000_000, resamples=10_000, metrics=4):
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, size=prompts, dtype=np.uint64)
    start = time.perf_counter()
    for _ in range(metrics):
        found = mean(rng.random(prompts), bounded=True, keys=keys, resamples=resamples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{prompts:,} prompts x {resamples} resamples x {metrics} metrics: "
          f"{time.perf_counter() - start:.1f} s, peak {peak:.2f} GiB, {found.method}")  # fmt: skip


def one_mean(prompts=805, resamples=10_000):
    rng = np.random.default_rng(0)
    column, keys = rng.random(prompts), rng.integers(0, 2**64, size=prompts, dtype=np.uint64)
    generator = np.random.default_rng(1)

    def plain():
        for start in range(0, resamples, 1000):
            rows = generator.integers(0, prompts, (min(1000, resamples - start), prompts))
            column[rows].mean(axis=1)

    ours = seconds(lambda: mean(column, bounded=True, keys=keys, resamples=resamples))
    print(f"one mean, {prompts} prompts x {resamples} resamples: plain numpy / ours = "
          f"{seconds(plain) / ours:.2f} (no win worth naming)")  # fmt: skip


if __name__ == "__main__":
    many_models()
    one_mean()
    many_prompts()

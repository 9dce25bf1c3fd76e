"""A length-controlled win rate with its interval, against fits that peers make of the same model.

The outcomes are made up here. Upstream-like: an L1 logistic fit on every row twice, once won and
once lost, weighted by the preference; the penalty is chosen among ten by 5-fold cross-validation
and the fit repeated. AlpacaEval does so with liblinear; here scipy's L-BFGS-B does, on coefficients
split by sign, so read the ratio as an order of magnitude. One fit: statsmodels' binomial GLM, with
robust standard errors of the coefficients, none of the win rate.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import statsmodels.api as sm
from scipy import optimize, special

from evalkit.statistics.length import length_controlled

PENALTIES = np.logspace(-4, 4, 10)
FOLDS = 5


def outcomes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    difficulty, delta = rng.normal(size=n), rng.normal(200, 600, size=n)
    logits = np.tanh(delta / 600) + difficulty - 0.5
    return special.expit(logits + rng.normal(size=n)), delta, difficulty


def lasso(design: np.ndarray, y: np.ndarray, weight: np.ndarray, c: float) -> np.ndarray:
    k = design.shape[1]
    signs = 2 * y - 1

    def loss(parts: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (design @ (parts[:k] - parts[k:]))
        slope = -c * (weight * signs * special.expit(-margin)) @ design
        value = c * weight @ np.logaddexp(0, -margin) + parts.sum()
        return float(value), np.concatenate([slope, -slope]) + 1

    bounds = [(0, None)] * (2 * k)
    found = optimize.minimize(loss, np.zeros(2 * k), jac=True, bounds=bounds, method="L-BFGS-B")
    return np.asarray(found.x[:k] - found.x[k:])


def upstream_like(preference: np.ndarray, delta: np.ndarray, difficulty: np.ndarray) -> float:
    n = len(preference)
    columns = [np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones(n)]
    design = np.tile(np.column_stack(columns), (2, 1))
    y, weight = np.repeat([1.0, 0.0], n), np.concatenate([preference, 1 - preference])
    fold = np.tile(np.arange(n) % FOLDS, 2)
    scores = np.zeros(len(PENALTIES))
    for i, c in enumerate(PENALTIES):
        for held in range(FOLDS):
            rows = fold != held
            logits = design[~rows] @ lasso(design[rows], y[rows], weight[rows], c)
            scores[i] -= weight[~rows] @ np.logaddexp(0, (1 - 2 * y[~rows]) * logits)
    beta = lasso(design, y, weight, PENALTIES[scores.argmax()])
    return float(special.expit(design[:n, 1:] @ beta[1:]).mean())


def one_fit(preference: np.ndarray, delta: np.ndarray, difficulty: np.ndarray) -> float:
    columns = [np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones(len(delta))]
    design = np.column_stack(columns)
    model = sm.GLM(preference, design, family=sm.families.Binomial())
    beta = model.fit(cov_type="HC1").params
    return float(special.expit(design[:, 1:] @ beta[1:]).mean())


def evalkit(preference: np.ndarray, delta: np.ndarray, difficulty: np.ndarray) -> float:
    return length_controlled(preference, delta, difficulty=difficulty).estimate.value or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = outcomes(options.prompts, 0)
    runs: dict[str, tuple[Callable[..., float], int]] = {
        "evalkit": (evalkit, 20),
        "statsmodels, one fit": (one_fit, 20),
        "upstream-like": (upstream_like, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, (run, repeats) in runs.items():
            start = time.perf_counter()
            for _ in range(repeats):
                values[name] = run(*data)
            seconds[name].append((time.perf_counter() - start) / repeats)
    ours = statistics.median(seconds["evalkit"])
    print(f"{options.prompts} prompts, median of {options.rounds} rounds")
    for name, times in seconds.items():
        ratio, off = statistics.median(times) / ours, 100 * (values[name] - values["evalkit"])
        print(f"{name:24}{ratio:8.1f} × evalkit, win rate {off:+.2f} points from evalkit's")


if __name__ == "__main__":
    main()

"""The prompts a gate needs where hardly any tells two checkpoints apart: its own verdicts tell."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from evalkit.gate import Rule
from evalkit.statistics.few_deciding import (
    Differing,
    LossRule,
    chance_to_decide,
    prompts_to_decide_few,
)
from tests.test_gate import estimate, only, two

TRIALS = 3_000
ERROR = 3 * math.sqrt(0.8 * 0.2 / TRIALS)  # three standard errors of a simulated 80 %


@functools.cache
def judged(wins, losses, n, margin, strict=False):
    """The gate on two checkpoints that differ by a whole win on so many prompts."""
    value = (wins - losses) / n
    stderr = math.sqrt(max(0.0, (wins + losses) / n - value**2) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * stderr
    found = two(estimate(value, half, n=n, stderr=stderr), deciding=wins + losses)
    return only(found, Rule("win_rate", margin=margin, against="old", strict=strict))


def decided(truth, n, margin, strict, seed=0):
    """How often the gate decides on new runs of n prompts."""
    rng = np.random.default_rng(seed)
    wins, losses, prompts = truth
    chances = [wins / prompts, losses / prompts, 1 - (wins + losses) / prompts]
    runs = rng.multinomial(n, chances, TRIALS).tolist()
    states = [judged(a, b, n, margin, strict).state != "inconclusive" for a, b, _ in runs]
    return float(np.mean(states))


@pytest.mark.parametrize(
    ("truth", "margin", "strict"),
    [
        ((2, 2, 400), 0.03, False),
        ((4, 4, 400), 0.03, False),
        ((3, 3, 160), 0.05, False),
        ((4, 4, 160), 0.08, False),
        ((4, 4, 160), 0.05, False),  # as many differ as the margin
        ((2, 6, 400), 0.03, False),
        ((3, 6, 100), 0.05, False),  # told by the variance
        ((0, 9, 300), 0.03, True),  # a small sure loss
        ((0, 5, 805), 0.003, False),  # and one beyond the margin
    ],
)
def test_the_number_needed_decides_80_percent_of_new_runs_and_nine_tenths_of_it_fewer(
    truth, margin, strict
):
    needed = judged(*truth, margin, strict).n_needed
    assert decided(truth, needed, margin, strict) > 0.8 - ERROR
    assert decided(truth, int(0.9 * needed), margin, strict) < 0.8


def test_both_ways_to_decide_count():
    """4 of 400 differ: nine are too many to pass by their share, ten pass by their variance."""
    truth, rule = Differing(0.01, 0.0, 1.0), LossRule(0.03, -0.03, 0.95, 0.95, 10)
    needed = prompts_to_decide_few(truth, rule, power=0.8)
    few = float(stats.binom.cdf(9, needed, 0.01))
    assert 0.05 < 1 - few < 0.15
    by_share = [k for k in range(10) if judged(0, k, needed, 0.03).state == "pass"]
    told = float(stats.binom.cdf(max(by_share), needed, 0.01)) + 1 - few
    assert chance_to_decide(needed, truth, rule) == pytest.approx(told, abs=1e-3)


def test_no_number_decides_at_the_margin_itself():
    at = Differing(0.03, -0.03, 1.0)
    assert prompts_to_decide_few(at, LossRule(0.03, -0.03, 0.95, 0.95, 10), power=0.8) is None
    assert judged(0, 9, 300, 0.03).n_needed is None

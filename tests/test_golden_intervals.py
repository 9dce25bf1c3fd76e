"""Means and intervals of real preferences against scipy's and statsmodels' numbers for them."""

import json
from functools import cache

import numpy as np
import pytest

from evalkit.pairing import bootstrap_keys
from evalkit.statistics.intervals import clopper_pearson, mean, wilson
from tests.shared_data import SHARED, needs_shared

ALPACA = SHARED / "data" / "alpaca_eval"


@cache
def golden():
    return json.loads((ALPACA / "golden_reference.json").read_text("utf-8"))["single"]


@cache
def preferences():
    import pandas as pd

    frame = pd.read_parquet(ALPACA / "alpaca_eval_preferences.parquet")
    frame = frame[frame.annotator == "weighted_alpaca_eval_gpt4_turbo"].copy()
    frame["won"] = np.where(frame.preference == 0, 0.5, frame.preference - 1)
    return {name: rows.sort_values("prompt_index") for name, rows in frame.groupby("model")}


def models():
    return [row["model"] for row in golden()] if SHARED.is_dir() else []


@needs_shared
@pytest.mark.parametrize("model", models())
def test_a_mean_its_error_and_its_intervals(model):
    (expected,) = [row for row in golden() if row["model"] == model]
    rows = preferences()[model]
    won = rows.won.to_numpy()
    found = mean(won, bounded=False)
    assert (found.n, found.value) == (expected["n"], pytest.approx(expected["mean"], rel=1e-9))
    assert found.stderr == pytest.approx(expected["se"], rel=1e-9)
    assert (found.low, found.high) == pytest.approx(expected["t95"], rel=1e-9)
    clusters = rows.dataset.astype("category").cat.codes.to_numpy().astype(np.int64)
    clustered = mean(won, bounded=False, clusters=clusters)
    assert clustered.clusters == expected["n_clusters"]
    assert clustered.stderr == pytest.approx(expected["sm_clustered_se_dataset_CR1"], rel=1e-9)
    for name, part in expected["per_dataset"].items():
        group = mean(won[(rows.dataset == name).to_numpy()], bounded=True)
        assert (group.n, group.value) == (part["n"], pytest.approx(part["mean"], rel=1e-9))


@needs_shared
@pytest.mark.parametrize("model", models())
def test_bca_agrees_within_the_error_of_drawing(model):
    (expected,) = [row for row in golden() if row["model"] == model]
    rows = preferences()[model]
    keys = bootstrap_keys([str(i) for i in rows.prompt_index], 0)
    found = mean(rows.won.to_numpy(), bounded=True, keys=keys, resamples=20_000)
    # each end is a quantile of some 10,000 draws on both sides: a fraction of the standard error
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(expected["bca95"], abs=0.06 * expected["se"])


@needs_shared
@pytest.mark.parametrize("model", models())
def test_intervals_of_counts(model):
    (expected,) = [row for row in golden() if row["model"] == model]
    counts = expected["discrete_wins"], expected["n"]
    assert wilson(*counts) == pytest.approx(expected["wilson95_discrete"], rel=1e-9)
    assert clopper_pearson(*counts) == pytest.approx(expected["clopper95_discrete"], rel=1e-9)


def test_counts_at_the_edges_by_hand():
    assert wilson(0, 0) is clopper_pearson(0, 0) is None
    low, high = clopper_pearson(0, 10)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert clopper_pearson(10, 10) == (pytest.approx(1 - high), 1.0)
    # z²/(n + z²) with z = 1.959964
    assert wilson(0, 10) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-6))
    assert wilson(2.5, 5)[0] + wilson(2.5, 5)[1] == pytest.approx(1)


def test_very_many_prompts_are_drawn_in_groups_with_the_same_interval():
    rng = np.random.default_rng(0)
    column = rng.exponential(size=30_000)
    keys = rng.integers(0, 2**64, size=30_000, dtype=np.uint64)
    found = mean(column, bounded=False, keys=keys, resamples=2_000)
    plain = mean(column, bounded=False)
    assert found.method == "bca"
    assert found.value == plain.value
    assert (found.low, found.high) == pytest.approx(
        (plain.low, plain.high), abs=0.15 * plain.stderr
    )
    again = mean(column[::-1].copy(), bounded=False, keys=keys[::-1].copy(), resamples=2_000)
    assert (again.low, again.high) == pytest.approx((found.low, found.high), rel=1e-12)

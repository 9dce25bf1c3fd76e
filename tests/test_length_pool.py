"""The win rate at equal lengths where other answers to the same reference tell of the prompts."""

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from evalkit.lengths import Pooled, Sizes, lengths_of
from evalkit.pairing import PairedTable, Unmatched
from tests.shared_data import SHARED, needs_shared

ALPACA = SHARED / "data" / "alpaca_eval"
AE2 = "weighted_alpaca_eval_gpt4_turbo"
BASELINE = "gpt4_1106_preview"


def judged(prompt_id, chance):
    nothing = np.full(len(chance), np.nan)
    return PairedTable(
        prompt_id=prompt_id,
        subset=np.full(len(chance), "", dtype=object),
        checkpoint_reward=nothing,
        reference_reward=nothing,
        outcome=chance,
        probability=chance,
        order_gap=nothing,
        order_shift=nothing,
        checkpoint_tokens=nothing,
        reference_tokens=nothing,
        truncated=0,
        unmatched=Unmatched(),
    )


@functools.cache
def models():
    """Model -> its pool entry, of AlpacaEval 2's verdicts and lengths in characters."""
    rows = pd.read_parquet(ALPACA / "alpaca_eval_preferences.parquet")
    rows = rows[(rows.annotator == AE2) & (rows.model != BASELINE) & rows.preference.notna()]
    found = {}
    for model, mine in rows.groupby("model"):
        chance = mine.preference.replace(0, 1.5).to_numpy() - 1
        ids = mine.prompt_index.astype(str).to_numpy(dtype=object)
        delta = (mine.len_model - mine.len_reference).to_numpy(dtype=np.float64)
        found[model] = Pooled(model, ids, chance - 0.5, chance, delta)
    return found


def at_equal_lengths(one, pool):
    sizes = Sizes("characters", one.difference, np.zeros(len(one.difference)))
    found = lengths_of(
        judged(one.prompt_id, one.outcome), sizes, 0.95, np.arange(len(one.outcome)), pool
    )
    return found.controlled.estimate.value


@needs_shared
def test_a_pool_of_references_comes_close_to_what_upstream_downloads():
    board = pd.read_csv(ALPACA / "leaderboards" / f"{AE2}_leaderboard.csv", index_col=0)
    published = board.length_controlled_winrate.dropna() / 100
    names = [name for name in models() if name in published.index]
    expected = published[names].to_numpy()

    def found(pool_of):
        return np.array([at_equal_lengths(models()[n], pool_of(n)) for n in names])

    pooled = found(lambda name: [p for n, p in models().items() if n != name])
    alone = found(lambda name: [])

    def off(values):
        return np.abs(values - expected).mean()

    assert len(names) == 50
    assert stats.spearmanr(pooled, expected)[0] > 0.96
    assert off(pooled) < 0.03
    # the control: without a pool
    assert stats.spearmanr(alone, expected)[0] < 0.93
    assert off(alone) > 0.06


def planted(seed, effect=0.0):
    """Five answers to one reference; length is worth something, and some prompts are hard."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{k:03}" for k in range(300)], dtype=object)
    hard = rng.normal(size=300)
    found = []
    for k in range(5):
        delta = rng.normal(0, 100, 300)
        logit = effect + 1.5 * np.tanh(delta / 100) + hard
        won = (rng.random(300) < 1 / (1 + np.exp(-logit))).astype(float)
        found.append(Pooled(f"reference {k}", ids, won - 0.5, won, delta))
    return found


def lengths(one, pool):
    sizes = Sizes("tokens", one.difference + 500, np.full(len(one.outcome), 500.0))
    return lengths_of(judged(one.prompt_id, one.outcome), sizes, 0.95, np.arange(300), pool)


def test_a_pool_gives_difficulties_and_a_prior_and_a_few_references_do_not():
    one, *pool = planted(0)
    found = lengths(one, pool)
    assert found.pool == tuple(p.name for p in pool)
    assert found.controlled.psi is not None
    assert found.controlled.prior.comparisons == 4
    assert found.diagnostics.outcome_partial.state == "ok"
    few = lengths(one, pool[1:])
    assert few.pool == ()
    assert few.controlled.psi is None
    assert few == lengths(one, [])


def test_a_pool_that_lacks_a_prompt_is_not_used():
    one, *pool = planted(0)
    lacking = [Pooled(p.name, *(column[1:] for column in p[1:])) for p in pool]
    assert lengths(one, lacking).pool == ()
    assert lengths(one, [pool[0], *lacking[1:]]).pool  # one of them knows the prompt


def test_the_order_of_a_pool_and_of_its_rows_does_not_matter():
    one, *pool = planted(1)
    turned = [Pooled(p.name, *(column[::-1] for column in p[1:])) for p in pool[::-1]]
    first, second = lengths(one, pool).controlled, lengths(one, turned).controlled
    assert first.estimate.value == pytest.approx(second.estimate.value, abs=1e-12)
    assert first.estimate.stderr == pytest.approx(second.estimate.stderr, abs=1e-12)


def test_difficulties_keep_length_from_standing_in_for_hard_prompts():
    errors = {"with": [], "without": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ids = np.array([f"p{k:03}" for k in range(300)], dtype=object)
        hard, found = 2 * rng.normal(size=300), []
        for k in range(13):
            delta = 60 * hard + rng.normal(20, 100, 300)  # longer where it wins anyway
            chance = special.expit(0.5 + hard + (0.1 if k else 0.0))
            found.append(Pooled(f"reference {k}", ids, chance - 0.5, chance, delta))
        one, *pool = found
        truth = special.expit(0.5 + hard).mean()  # length is worth nothing
        for key, used in (("with", pool), ("without", [])):
            errors[key].append(abs(lengths(one, used).controlled.estimate.value - truth))
    assert np.mean(errors["with"]) < np.mean(errors["without"]) / 3


def test_matched_and_balanced_win_rates_stand_beside():
    one, *_ = planted(2)
    found = lengths(one, [])
    near = np.abs(one.difference) <= np.sort(np.abs(one.difference))[149]
    assert found.matched.value == one.outcome[near].mean()
    longer, shorter = one.difference > 0, one.difference < 0
    sides = [one.outcome[longer].mean(), one.outcome[shorter].mean()]
    assert found.balanced.value == pytest.approx(np.mean(sides), abs=1e-12)
    assert found.balanced_state == "ok"

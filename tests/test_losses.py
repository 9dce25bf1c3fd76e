import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit

from evalkit.statistics.losses import bradley_terry_loss, scaled_bradley_terry_loss

MARGINS = st.floats(-1e4, 1e4)
DECIDED = {1: 1.0, 2: 3.0, 3: 10.0}


def test_by_hand():
    found = bradley_terry_loss(np.array([0.0, math.log(3), -math.log(3)]))
    # σ(0) = 1/2, σ(ln 3) = 3/4, σ(−ln 3) = 1/4
    np.testing.assert_allclose(found, [math.log(2), math.log(4 / 3), math.log(4)], rtol=1e-15)
    assert bradley_terry_loss(np.array([2.0]), temperature=2.0) == bradley_terry_loss(
        np.array([1.0])
    )


@given(st.lists(st.tuples(MARGINS, st.sampled_from([1, 2, 3])), min_size=1, max_size=30))
def test_scaled_loss_is_minus_d_log_sigma(pairs):
    margins, magnitudes = np.array([m for m, _ in pairs]), np.array([d for _, d in pairs])
    expected = -np.array([DECIDED[d] for d in magnitudes.tolist()]) * log_expit(margins)
    found = scaled_bradley_terry_loss(margins, magnitudes)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


def test_a_margin_of_ten_thousand_is_neither_infinite_nor_nan():
    found = scaled_bradley_terry_loss(np.array([1e4, -1e4, -1e4]), np.array([3, 1, 3]))
    assert found.tolist() == [0.0, 1e4, 1e5]


def test_a_pair_without_a_margin_has_no_loss():
    assert np.isnan(bradley_terry_loss(np.array([np.nan]))).all()


@pytest.mark.parametrize("magnitude", [0, 4, -1])
def test_an_unknown_magnitude_is_refused(magnitude):
    with pytest.raises(ValueError, match="magnitudes"):
        scaled_bradley_terry_loss(np.array([0.0]), np.array([magnitude]))

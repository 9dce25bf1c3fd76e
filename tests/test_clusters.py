"""Rows grouped by what they share, and the level of an interval."""

import numpy as np
import pytest

from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import check_level


def test_clusters_are_numbered_by_their_values_and_add_up():
    found = clustering(5, np.array([7, 3, 7, 9, 3]))
    assert found.label.tolist() == [1, 0, 1, 2, 0]
    assert found.first.tolist() == [1, 0, 3]
    assert found.sizes.tolist() == [2.0, 2.0, 1.0]
    rows = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert found.sums(rows).tolist() == [18.0, 5.0, 8.0]
    assert found.sums(np.column_stack([rows, -rows])).tolist() == [[18, -18], [5, -5], [8, -8]]


@pytest.mark.parametrize("n", [0, 3])
def test_without_clusters_each_row_is_its_own(n):
    found = clustering(n, None)
    assert found.label.tolist() == found.first.tolist() == list(range(n))
    assert found.sizes.tolist() == [1.0] * n
    assert found.sums(np.arange(float(n))).tolist() == list(range(n))


@pytest.mark.parametrize("clusters", [np.zeros(2), np.zeros(4), np.zeros((3, 1))])
def test_each_row_has_a_cluster(clusters):
    with pytest.raises(ValueError, match="each row has a cluster: 3 rows"):
        clustering(3, clusters)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0, float("nan")])
def test_a_level_lies_between_0_and_1(level):
    with pytest.raises(ValueError, match="the level must lie between 0 and 1"):
        check_level(level)

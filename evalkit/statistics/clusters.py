"""Rows that are not independent of each other, grouped by what they share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evalkit.data import FloatArray, IntArray


class Clustering(NamedTuple):
    """Which of n rows belong together, in C clusters numbered from 0.

    Attributes:
        label: (n,) cluster of each row.
        first: (C,) the first row of each cluster, whose bootstrap key is that of all of them.
    """

    label: IntArray
    first: IntArray

    @property
    def sizes(self) -> FloatArray:
        """(C,) rows of each cluster."""
        return np.bincount(self.label).astype(np.float64)

    def sums(self, rows: FloatArray) -> FloatArray:
        """(C, …) sums of (n, …) rows over each cluster."""
        found = np.zeros((len(self.first), *rows.shape[1:]))
        np.add.at(found, self.label, rows)
        return found


def clustering(rows: int, clusters: IntArray | None) -> Clustering:
    """Group so many rows by their clusters, in the order of the clusters' values.

    Args:
        rows: n.
        clusters: (n,) cluster of each row, of any values; each row its own if None.

    Raises:
        ValueError: Another number of clusters than rows.
    """
    if clusters is None:
        each = np.arange(rows, dtype=np.int64)
        return Clustering(each, each)
    if np.shape(clusters) != (rows,):
        raise ValueError(f"each row has a cluster: {rows} rows, clusters {np.shape(clusters)}")
    _, first, label = np.unique(clusters, return_index=True, return_inverse=True)
    return Clustering(label.astype(np.int64), first.astype(np.int64))

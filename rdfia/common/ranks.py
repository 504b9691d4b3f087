"""Ranks by several scores together."""

import math
from collections.abc import Sequence
from statistics import fmean

from scipy.stats import rankdata


def mean_ranks(values: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean rank of each item over several scores, from 1 on, large for the best.

    Args:
        values: By item, its scores, of which large ones are best. One that is not a number is worse than all;
            a score that is of no item has no say, and nan is returned where there is no other.
    """
    columns = [column for column in zip(*values, strict=True) if not all(map(math.isnan, column))]
    if not columns:
        return [math.nan] * len(values)
    ranks = [rankdata([-math.inf if math.isnan(one) else one for one in column]) for column in columns]
    return [fmean(map(float, one)) for one in zip(*ranks, strict=True)]

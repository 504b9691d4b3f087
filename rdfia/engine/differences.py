"""How far one setting's numbers are from another's, and how sure that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

Key = tuple[int, ...]  # a seed, or a seed and the number of a draw


@dataclass(frozen=True)
class Difference:
    """How far one setting is from another.

    Attributes:
        mean: Of the differences.
        low: Lower end of the 95 % interval of the mean; none of a single pair, or of draws.
        high: Its upper end.
        count: Of pairs, or of the values of the smaller side where there are no pairs.
        paired: By seed, or else between two means.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    paired: bool

    def __str__(self) -> str:
        text = number(self.mean, signed=True)
        if self.low is not None and self.high is not None:
            low, high = (number(end, like=self.mean, signed=True) for end in (self.low, self.high))
            text += f" [{low}, {high}]"
        return text + ("" if self.paired else " unpaired") + (f", n = {self.count}" if self.count > 1 else "")


def by_seed(results: Mapping[str, Any], metric: str) -> dict[Key, float] | None:
    """Return the values of a metric of a run by seed, those that are numbers; None of draws, or no metric."""
    values = results["metrics"].get(metric, {"values": []})["values"]
    if len(results["seeds"]) != len(values):
        return None
    pairs = zip(results["seeds"], values, strict=True)
    return {(seed,): value for seed, value in pairs if value is not None}


def difference(ours: Mapping[Key, float], base: Mapping[Key, float]) -> Difference | None:
    """Return the difference of two settings, with Student's interval over seeds; None if one has no value.

    Over the seeds that both have; between the two means, with Welch's interval, if they share none. Draws of
    one training have no interval.

    Args:
        ours: Values by seed.
        base: Values by seed of the setting that is compared with.
    """
    if not ours or not base:
        return None
    shared = sorted(ours.keys() & base.keys())
    draws = any(len(key) > 1 for key in (*ours, *base))  # of the same images, more alike than new ones are
    if not shared:
        two = [list(ours.values()), list(base.values())]
        apart, least = mean(two[0]) - mean(two[1]), min(map(len, two))
        if least < 2 or draws:
            return Difference(apart, None, None, least, paired=False)
        from scipy import stats

        found = stats.ttest_ind(*two, equal_var=False).confidence_interval(0.95)
        return Difference(apart, float(found.low), float(found.high), least, paired=False)
    apart_by_seed = [ours[seed] - base[seed] for seed in shared]
    apart, count = mean(apart_by_seed), len(shared)
    if count < 2 or draws:
        return Difference(apart, None, None, count, paired=True)
    half = reach_of_mean(stdev(apart_by_seed), count)
    return Difference(apart, apart - half, apart + half, count, paired=True)


def reach_of_mean(deviation: float, count: int) -> float:
    """Return half the length of Student's 95 % interval of a mean of ``count`` values, two at least."""
    from scipy import stats

    return float(stats.t.ppf(0.975, count - 1) * deviation / count**0.5)


def number(value: float, *, like: float | None = None, signed: bool = False) -> str:
    """Return a number with as many digits as count in it, or in one that it stands beside."""
    size = abs(value if like is None else like)
    digits = 4 if size < 10 else 2 if size < 1000 else 0
    if 0 < size < 0.01:
        digits = min(1 - math.floor(math.log10(size)), 12)
    return f"{value:{'+' if signed else ''},.{digits}f}"

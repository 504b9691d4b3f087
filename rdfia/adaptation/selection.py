"""Which score that needs no target labels can be trusted to choose between trainings?

A run is one training: its scores on validation images (`rdfia.adaptation.config.SELECTIONS`), and its
accuracy on the target, which only the judgement of the scores looks at.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import spearmanr

from rdfia.common.ranks import mean_ranks

ALL = "all_by_rank"


class Run(NamedTuple):
    """A training: on which pair, by which method, with which seed; scores of which high ones are best."""

    pair: str
    row: str
    seed: int
    scores: Mapping[str, float]
    accuracy: float


def with_ensemble(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with one score more, ``all_by_rank``: the mean of a run's ranks within its pair."""
    found: list[Run] = []
    for pair in dict.fromkeys(run.pair for run in runs):
        own = [run for run in runs if run.pair == pair]
        ranks = mean_ranks([list(run.scores.values()) for run in own])
        found += [
            run._replace(scores={**run.scores, ALL: rank}) for run, rank in zip(own, ranks, strict=True)
        ]
    return found


def rank_correlations(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return of each score Spearman's correlation with the target's accuracy over the runs of each pair.

    A pair all of whose runs have one accuracy or one score, or with fewer than three, is left out.
    """
    found: dict[str, list[float]] = {}
    for pair in dict.fromkeys(run.pair for run in runs):
        own = [run for run in runs if run.pair == pair and math.isfinite(run.accuracy)]
        for name in own[0].scores if own else ():
            known = [run for run in own if math.isfinite(run.scores[name])]
            scores, accuracies = [run.scores[name] for run in known], [run.accuracy for run in known]
            if min(len(set(scores)), len(set(accuracies)), len(known) - 1) > 1:
                found.setdefault(name, []).append(float(spearmanr(scores, accuracies).statistic))
    return found


def chosen(runs: Sequence[Run]) -> dict[str, dict[str, dict[int, float]]]:
    """Return the accuracy of the run that a score chooses among the methods: by score, pair and seed.

    ``oracle`` chooses by the accuracy itself, and is for comparison only.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        own = [one for one in runs if (one.pair, one.seed) == (run.pair, run.seed)]
        own = [one for one in own if math.isfinite(one.accuracy)]
        for name in (*run.scores, "oracle"):
            if own and (name == "oracle" or any(not math.isnan(one.scores[name]) for one in own)):
                best = max(
                    own, key=lambda one: one.accuracy if name == "oracle" else _value(one.scores[name])
                )
                found.setdefault(name, {}).setdefault(run.pair, {})[run.seed] = best.accuracy
    return found


def _value(score: float) -> float:
    return -math.inf if math.isnan(score) else score

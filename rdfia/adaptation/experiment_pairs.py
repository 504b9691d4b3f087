"""One table over pairs of domains: each is adapted to each other, a run folder for each pair."""

import dataclasses
import math
import shlex
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from rdfia.adaptation.config import LOW_IS_BEST, WITHOUT_TARGET_LABELS, Args
from rdfia.adaptation.experiment_pair import run_pair
from rdfia.adaptation.plots import trust
from rdfia.adaptation.selection import ALL, Run, chosen, rank_correlations, with_ensemble
from rdfia.common import plots
from rdfia.engine import report, runs, tables
from rdfia.engine.args import part_of
from rdfia.engine.errors import Checked, Diverged

Values = dict[str, list[float]]


def pairs_of(args: Args) -> dict[str, Args]:
    """Return the flags of each pair, by its name."""
    domains = args.needs()
    names = {domain: Path(domain).name for domain in domains}
    if len(set(names.values())) < len(names):
        names = {domain: domain.strip("./").replace("/", "-") for domain in domains}
    for first, second in combinations(domains, 2):
        if names[first] == names[second]:
            raise ValueError(f"results of {first} and {second} would lie in one folder; rename one")
    folder = args.output_dir / args.name
    found = {}
    for source, target in args.all_pairs:
        name = f"{names[source]}-to-{names[target]}"
        one = dataclasses.replace(args, domains=(), pairs=(), part=None, source=source, target=target)
        found[name] = dataclasses.replace(one, name=name, output_dir=folder)
    return found


def run_pairs(args: Args) -> dict[str, Any]:
    """Run each pair, or the pairs of a part; write and print the table over all; return its results.json.

    Raises:
        ValueError: The folder holds a table of other domains.
    """
    folder = args.output_dir / args.name
    if (folder / "args.json").exists():
        raise ValueError(f"{folder} is the run of one pair; use another --name for --domains")
    pairs = pairs_of(args)
    results, checked, diverged = {}, Checked(), dict[str, Diverged]()
    for name, one in part_of(list(pairs.items()), args.part):
        print(f"{name}:", flush=True)
        try:
            results[name] = run_pair(one)
        except Checked as found:  # of this pair: look at the others too
            checked = found
        except Diverged as error:
            diverged[name] = error
            print(f"{name} is left out of the table: {error}", flush=True)
    if args.check:
        raise checked
    if args.part is not None or args.fast_dev_run or not all(results.values()):
        return {}
    if not results:
        raise next(iter(diverged.values()))
    return finish(args, folder, results, list(diverged))


def finish(args: Args, folder: Path, results: dict[str, Any], diverged: Sequence[str]) -> dict[str, Any]:
    """Write results.json and a page over all pairs, draw, print the table; return what was written.

    Args:
        args: The flags.
        folder: Of the table.
        results: Of each pair.
        diverged: Pairs that have none.
    """
    seeds = list(args.seeds or (args.seed,))
    first = next(iter(results.values()))
    scores = {pair: scores_of(found) for pair, found in results.items()}
    of_first = next(iter(scores.values()))
    rows = [row for row in of_first if all(row in found for found in scores.values())]
    metrics: dict[str, list[float | None]] = {}
    for row in rows:
        shared = [score for score in of_first[row] if all(score in one[row] for one in scores.values())]
        for score in shared:
            by_pair = [one[row][score] for one in scores.values()]
            metrics[f"{row}/{score}"] = [fmean(values) for values in zip(*by_pair, strict=True)]
    runs_ = with_ensemble([run for pair, found in results.items() for run in runs_of(pair, found)])
    choices = chosen(runs_)
    for score, by_pair_ in choices.items():
        metrics[f"chosen by {score}/target_accuracy"] = [
            fmean(by_seed.get(seed, math.nan) for by_seed in by_pair_.values()) for seed in seeds
        ]
    for pair, found in scores.items():
        for row in rows:
            if "target_accuracy" in found[row]:
                metrics[f"{pair}/{row}/target_accuracy"] = list(found[row]["target_accuracy"])
    correlations = rank_correlations(runs_)
    for name, values in correlations.items():
        metrics[f"rank correlation/{name}"] = [*values]
    summary = runs.summarized(metrics)
    written = {
        key: first[key] for key in ("technique", "commit", "device", "precision", "seeds", "selection")
    }
    labelled = len({run.pair for run in runs_})
    content = {
        "name": folder.name,
        **written,
        "command": shlex.join(["python", *sys.argv]),
        "wall_seconds": round(sum(found["wall_seconds"] for found in results.values()), 1),
        "peak_memory_gb": max(found["peak_memory_gb"] for found in results.values()),
        "data": {pair: found["data"] for pair, found in results.items()},
        "metrics": summary,
        "status": status_of(results, diverged),
        "notes": [
            f"row/score: mean over {len(results)} pairs, a value per seed; pair/row/score: of one pair",
            f"{labelled} pairs have a target with labels: what is chosen is of those",
            f"chosen by score: for each pair and seed that of {len({run.row for run in runs_})} rows whose "
            "last epoch has the best score; oracle looks at target labels, for comparison only",
            "rank correlation: Spearman's, of a score and the target's accuracy over the "
            f"{len(runs_) // max(labelled, 1)} trainings of a pair; a value for each pair where both vary",
            *notes_of(results),
        ],
    }
    runs.write_json(folder / "results.json", content)
    draw(folder, rows, scores, runs_, correlations)
    report.write_page(folder, content)
    accuracy = (
        "target_accuracy",
        *(f"target_accuracy_by_{name}" for name in (*WITHOUT_TARGET_LABELS, ALL, "oracle")),
    )
    shown = [*rows, *(f"chosen by {score}" for score in choices)]
    tables.show(content, {row: f"{row}/" for row in shown}, accuracy, digits=3)
    print(f"results.json, index.html and a folder for each pair in {folder}")
    return content


def notes_of(results: dict[str, Any]) -> list[str]:
    """Return the notes of all pairs: those that all have, and those of some after their name."""
    every = [note for found in results.values() for note in found["notes"]]
    shared = [note for note in dict.fromkeys(every) if every.count(note) == len(results)]
    own = [
        f"{pair}: {note}" for pair, found in results.items() for note in found["notes"] if note not in shared
    ]
    return [*shared, *own]


def scores_of(results: dict[str, Any]) -> dict[str, Values]:
    """Return the values of each score of each row of a pair, one per seed."""
    found: dict[str, Values] = {}
    for metric, value in results["metrics"].items():
        row, _, score = metric.partition("/")
        found.setdefault(row, {})[score] = [math.nan if one is None else one for one in value["values"]]
    return found


def runs_of(pair: str, results: dict[str, Any]) -> list[Run]:
    """Return the trainings of a pair that have all scores, each score so that high is best."""
    found = []
    for row, scores in scores_of(results).items():
        # Of what adapts, or might have: not the upper bound, which looks at target labels, nor the control.
        if (
            row in ("target-trained", "no-reversal")
            or "target_accuracy" not in scores
            or any(f"val_{name}" not in scores for name in WITHOUT_TARGET_LABELS)
        ):
            continue
        for number, seed in enumerate(results["seeds"]):
            own = {
                name: scores[f"val_{name}"][number] * (-1 if name in LOW_IS_BEST else 1)
                for name in WITHOUT_TARGET_LABELS
            }
            found.append(Run(pair, row, seed, own, scores["target_accuracy"][number]))
    return found


def status_of(results: dict[str, Any], diverged: Sequence[str]) -> str:
    """Return ``finished``, or which pairs did not come to a good end."""
    bad = [f"{pair}: all rows diverged, left out" for pair in diverged]
    bad += [f"{pair}: {found['status']}" for pair, found in results.items() if found["status"] != "finished"]
    return "; ".join(bad) or "finished"


def draw(
    folder: Path,
    rows: Sequence[str],
    scores: dict[str, dict[str, Values]],
    runs_: Sequence[Run],
    correlations: dict[str, list[float]],
) -> None:
    """Draw the table of pairs and methods, and the scores against the accuracy."""
    known = [row for row in rows if all("target_accuracy" in found[row] for found in scores.values())]
    if not known:
        return
    values = torch.tensor(
        [[fmean(found[row]["target_accuracy"]) for found in scores.values()] for row in known]
    )
    title = "accuracy on the target, last epoch, mean over seeds"
    labels = ("method", "pair")
    figure = plots.matrix(values, known, list(scores), labels=labels, title=title)
    runs.write_figure(folder, "pairs", figure)
    if runs_:
        runs.write_figure(folder, "trust", trust(runs_, correlations))

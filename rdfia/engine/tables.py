"""Tables: rows of settings, each trained several times in run folders of their own, with one results.json.

A sweep is a dictionary: by row, the flags in which it differs from what is asked for.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rdfia.engine import runs
from rdfia.engine.args import RunArgs, part_of

Flags = TypeVar("Flags", bound=RunArgs)
Changes = Mapping[str, Any]
Scores = Mapping[str, float]


def trainings(
    args: Flags,
    rows: Mapping[str, Changes],
    repeats: Mapping[Any, Changes],
    folder: Path,
    table_flags: Changes,
) -> Iterator[tuple[str, Any, Flags]]:
    """Yield each training of a table, or of the part of it that ``--part`` names: row, repeat and its flags.

    All rows come once before any comes again, so that an interrupted table has something of each.

    Args:
        args: The flags of the table.
        rows: By row, the flags in which it differs.
        repeats: By seed, or by another name, the flags in which the repeats of each row differ.
        folder: The table's run folder, which holds one for each training.
        table_flags: Flags of the table as a whole, and their neutral values in a single training.
    """
    pairs = [(repeat, row) for repeat in repeats for row in rows]
    for repeat, row in part_of(pairs, getattr(args, "part", None)):
        known = isinstance(repeat, int)
        name = runs.row_name(row, repeat) if known else runs.row_name(f"{row}-{repeat}", args.seed)
        own: dict[str, Any] = {"name": name, "output_dir": folder, "overwrite": False}
        yield row, repeat, dataclasses.replace(args, **{**table_flags, **rows[row], **repeats[repeat], **own})


def by_seed(args: Any) -> dict[int, dict[str, int]]:
    """Return the repeats of a table that is trained with several seeds."""
    return {seed: {"seed": seed} for seed in args.seeds or (args.seed,)}


@dataclass
class Table:
    """What the trainings of a table have come to: scores by row and seed, and which diverged."""

    seeds: Sequence[int]
    found: dict[str, dict[int, Scores]] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)

    def add(self, row: str, seed: int, scores: Scores) -> None:
        """Add the scores of a training."""
        self.found.setdefault(row, {})[seed] = scores

    def add_diverged(self, row: str, seed: int, scores: Scores, why: str = "diverged") -> None:
        """Add a training of which a loss was not finite, with the scores that it has all the same."""
        self.diverged.append(f"{row}, seed {seed}: {why}")
        self.add(row, seed, scores)

    def metrics(self) -> dict[str, list[float]]:
        """Return the values of ``row/score``, one per seed; nan where a training has none."""
        return {
            f"{row}/{score}": [scores.get(seed, {}).get(score, math.nan) for seed in self.seeds]
            for row, scores in self.found.items()
            for score in dict.fromkeys(score for one in scores.values() for score in one)
        }

    def status(self) -> str:
        """Return ``finished``, or how many of its trainings diverged."""
        count = sum(map(len, self.found.values()))
        return f"{len(self.diverged)} of {count} trainings diverged" if self.diverged else "finished"


def show(
    results: Mapping[str, Any],
    rows: Mapping[str, str],
    columns: Sequence[str],
    *,
    digits: int = 4,
    last: tuple[str, Mapping[str, str]] | None = None,
) -> list[list[str]]:
    """Print metrics of a table, a line for each row, and return all cells, those of the header first.

    Args:
        results: Content of its results.json.
        rows: By row, what the names of its metrics begin with.
        columns: Names of metrics; one that no row has is left out.
        digits: After the point.
        last: A column of words: its name, and the word of each row.
    """
    metrics = results["metrics"]
    columns = [one for one in columns if any(start + one in metrics for start in rows.values())]
    lines = [["", *(column.replace("_", " ") for column in columns)]]
    for row, start in rows.items():
        known = [metrics.get(start + column) for column in columns]
        lines.append([row, *("" if one is None else runs.spread(one, digits) for one in known)])
    if last is not None:
        for line, word in zip(lines, [last[0], *(last[1][row] for row in rows)], strict=True):
            line.append(word)
    widths = [max(map(len, cells)) + 2 for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        print(f"{line[0]:{widths[0]}}" + "".join(cells))
    return lines

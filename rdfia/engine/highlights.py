"""The first screen of a page: of each technique a picture, and a sentence that is made from its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdfia.engine.answers import counted, reach, tested_on
from rdfia.engine.questions import Cell
from rdfia.engine.report import Picture, find_figures, picture


@dataclass(frozen=True)
class Highlight:
    """What to see of a technique.

    Attributes:
        title: Its name.
        figure: As in `rdfia.engine.questions.Question`.
        sentence: With a field for each number: ``{accuracy}`` is a share in percent with what is known of how
            sure it is, ``{distance:.1f}`` a number alone.
        numbers: By field, ``folder:metric``.
    """

    title: str
    figure: str
    sentence: str
    numbers: Mapping[str, str] = field(default_factory=dict)


class _Number:
    """A metric that can be written into a sentence."""

    def __init__(self, metric: Mapping[str, Any], cell: Cell, runs: Mapping[str, Mapping[str, Any]]) -> None:
        self.metric, self.cell, self.runs = metric, cell, runs

    def __format__(self, wanted: str) -> str:
        mean = self.metric["mean"]
        if wanted:
            return format(mean, wanted)
        if "interval" in self.metric:
            low, high = self.metric["interval"]
            return f"{mean:.1%} (95 % interval {low:.1%} to {high:.1%}, of {self.metric['of']:,})"
        if self.metric["std"] is not None:
            return f"{mean:.1%} (± {self.metric['std']:.1%} over {counted(self.metric)} seeds)"
        if (count := tested_on(self.cell, self.runs)) and (found := reach(self.cell, self.runs)):
            return f"{mean:.1%} (95 % interval {found[0]:.1%} to {found[1]:.1%}, of {count:,} test images)"
        return f"{mean:.1%} (one training)"


def sentence(highlight: Highlight, runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the sentence with its numbers; None if one of them was not measured.

    Args:
        highlight: What to see.
        runs: Content of results.json by run folder.
    """
    numbers: dict[str, _Number] = {}
    for name, place in highlight.numbers.items():
        run, _, metric = place.partition(":")
        found = runs[run]["metrics"].get(metric) if run in runs else None
        if found is None or found["mean"] is None:
            return None
        numbers[name] = _Number(found, Cell("", found["mean"], run, metric), runs)
    return highlight.sentence.format(**numbers)


def pictures_of(
    choices: Sequence[Sequence[Highlight]], runs: Mapping[str, Mapping[str, Any]], runs_folder: Path
) -> list[Picture]:
    """Return a picture with its sentence for each technique.

    Args:
        choices: Of each technique what could be shown; the first that was run is.
        runs: Content of results.json by run folder.
        runs_folder: Holds the run folders, for their figures.
    """
    shown = []
    for of_technique in choices:
        for one in of_technique:
            said, files = sentence(one, runs), find_figures(runs_folder, one.figure)
            if said is not None and files:
                shown.append(picture(f"{one.title}: {said}", files[0]))
                break
    return shown

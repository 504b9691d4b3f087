"""Runs side by side: which flags differ, what the numbers make of it, curves and pictures, on one page.

The command is::

    python scripts/report.py runs/a runs/b 'runs/sweep-*' --out page.html

Trainings whose flags differ in nothing but the seed are one *setting*, however they are named. Settings are
compared with the first one, by the differences of trainings with the same seed: these share initial weights
and the order of the data, so that their difference says more than that of two means.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from datamodules.files import say
from rdfia.common import plots
from rdfia.engine import report, runs
from rdfia.engine.differences import difference, number
from rdfia.engine.questions import Cell, Table
from rdfia.engine.settings import OF_MODULE, Setting, find_runs, group, said

PANELS = 12  # of curves at most
FIGURES = 6  # of each setting at most
LINES = 10  # of a panel at most: as many can be told apart
SCHEDULES = ("_lr", "/lr", "/lambda")  # have no noise that a mean would take away


def flags_table(settings: Sequence[Setting]) -> Table:
    """Return the flags in which settings differ, a row each; and commit, device and data where they do."""

    def facts(setting: Setting) -> dict[str, str]:
        shown = {
            name if name.startswith(OF_MODULE) else f"--{name.replace('_', '-')}": said(value)
            for name, value in setting.flags.items()
        }
        for name in ("technique", "commit", "device", "precision"):
            shown[name] = ", ".join(dict.fromkeys(str(one[name]) for one in setting.results))
        shown["data"] = report.describe_data(setting.results[0]["data"])
        seeds = sorted(seed for one in setting.results for seed in one["seeds"])
        shown["seeds"] = ", ".join(map(str, seeds))
        return shown

    every = [facts(setting) for setting in settings]
    names = dict.fromkeys(name for one in every for name in one)
    differ = [name for name in names if len({one.get(name) for one in every}) > 1]
    rows = [[Cell(name), *(Cell(one.get(name, "-")) for one in every)] for name in differ]
    return Table(["", *(setting.label for setting in settings)], rows)


def metrics_table(settings: Sequence[Setting], names: Sequence[str]) -> Table:
    """Return a row for each metric: mean and deviation of each setting, then differences from the first."""
    base, *others = settings
    header = ["", *(setting.label for setting in settings)]
    header += [f"{setting.label} less {base.label}" for setting in others]
    rows = []
    for name in names:
        cells = [Cell(name.replace("_", " "))]
        for setting in settings:
            values = list(setting.values(name).values())
            if not values:
                cells.append(Cell("nan" if setting.lacking(name) else "-"))
                continue
            middle, text = mean(values), number(mean(values))
            if len(values) > 1:
                text += f" ± {number(stdev(values), like=middle)}, n = {len(values)}"
            if lacking := setting.lacking(name):
                text += f" ({lacking} of {len(values) + lacking} gave no number)"
            cells.append(Cell(text, middle, setting.label, name))
        for setting in others:
            found = difference(setting.values(name), base.values(name))
            cells.append(Cell("-") if found is None else Cell(str(found), found.mean, setting.label, name))
        rows.append(cells)
    return Table(header, rows)


def all_equal(settings: Sequence[Setting], metric: str) -> bool:
    """Return whether a metric has one value in all trainings, such as the number of test images."""
    every = [setting.values(metric).values() for setting in settings]
    return all(every) and len({value for values in every for value in values}) == 1


def asked(name: str, metrics: Sequence[str]) -> bool:
    """Return whether a metric is to be shown: its name holds one of the parts, as a file or a page has it."""
    return not metrics or any(part in shown for part in metrics for shown in (name, name.replace("_", " ")))


def curves_of(
    settings: Sequence[Setting], metrics: Sequence[str] = ()
) -> tuple[dict[str, dict[str, plots.Line]], list[str]]:
    """Return the curves that two settings have, panel by panel, and the names of those left out.

    Means over seeds at the steps that all trainings of a setting have; those of validation come first, in the
    order of the results. Counts are not looked at, nor what has a single value, which the table says.

    Args:
        settings: What is compared.
        metrics: Parts of the names of those to show; by default all.
    """
    histories = [[runs.read_metrics(folder) for folder in setting.folders] for setting in settings]
    counts: dict[str, int] = {}
    for of_setting in histories:
        for name in dict.fromkeys(name for one in of_setting for name in one if "/" in name):
            counts[name] = counts.get(name, 0) + 1
    least = min(2, len(settings))
    counted = ("_lr", "/batch", "/n_real", "/n_generated")
    names = [name for name, count in counts.items() if count >= least and not name.endswith(counted)]
    order = list(dict.fromkeys(name for setting in settings for name in setting.metrics()))

    def place(name: str) -> tuple[bool, int]:
        of_results = name.rpartition("/")[2]
        return not name.startswith("val/"), order.index(of_results) if of_results in order else len(order)

    names = sorted((name for name in names if asked(name, metrics)), key=place)
    panels: dict[str, dict[str, plots.Line]] = {}
    for name in names:
        lines: dict[str, plots.Line] = {}
        for setting, of_setting in list(zip(settings, histories, strict=True))[:LINES]:
            known = [dict(zip(*one[name], strict=True)) for one in of_setting if name in one]
            steps = sorted(set.intersection(*map(set, known))) if known else []
            if steps:
                lines[setting.label] = (steps, [mean(one[step] for one in known) for step in steps])
        if plots.tells(lines):
            panels[name] = lines
    return dict(list(panels.items())[:PANELS]), list(panels)[PANELS:]


def pictures_of(settings: Sequence[Setting]) -> tuple[dict[str, list[report.Picture]], int]:
    """Return the figures that two settings have, by name, and how many were left out.

    Of each setting that of its first training. Figures of single epochs are not looked at: the last one is
    among the others.
    """
    counts: dict[str, int] = {}
    for setting in settings:
        for path in sorted((setting.folders[0] / "figures").glob("*.png")):
            if not re.search(r"_epoch_\d+$", path.stem) and "curves" not in path.stem:
                counts[path.stem] = counts.get(path.stem, 0) + 1
    least = min(2, len(settings))
    names = [name for name, count in counts.items() if count >= least]
    found = {}
    for name in names[:FIGURES]:
        paths = [(one.label, one.folders[0] / "figures" / f"{name}.png") for one in settings]
        found[name] = [report.picture(label, path) for label, path in paths if path.exists()]
    return found, len(names) - len(found)


def how_to_read(settings: Sequence[Setting], equal: Sequence[str]) -> str:
    """Return what the numbers are.

    Args:
        settings: What is compared.
        equal: Metrics that have one value everywhere, which is said here alone.
    """
    text = "Mean ± standard deviation over seeds, of a single training over its draws or splits."
    if len(settings) > 1:
        text += (
            f" Less {settings[0].label}: the mean difference of trainings with the same seed (or draw), "
            "with its 95 % interval (Student's t) where there are two seeds or more; where no seed is "
            "shared, of the means (Welch's), which is said. Draws and splits are of the same images, so that "
            "their spread says too little: they have no interval. Many rows are compared at once: one in "
            "twenty intervals is expected to miss the truth."
        )
    if len({report.describe_data(one["data"]) for setting in settings for one in setting.results}) > 1:
        text += (
            " Not all are of the same data: what depends on it, such as a distance to it, does not compare."
        )
    if equal:
        values = {name: next(iter(settings[0].values(name).values())) for name in equal}
        same = (f"{name.replace('_', ' ')} {number(value)}" for name, value in values.items())
        text += f" The same everywhere: {', '.join(same)}."
    return text


class Comparison(NamedTuple):
    """What a page of runs side by side holds, for where else it is shown."""

    title: str
    flags: Table
    numbers: Table
    equal: list[str]
    curves: dict[str, dict[str, plots.Line]]


def write_comparison(path: Path, given: Sequence[str], metrics: Sequence[str] = ()) -> Comparison:
    """Write a page of runs side by side; return what is on it.

    Args:
        path: Of the page.
        given: Run folders, tables and patterns; what others are compared with first.
        metrics: Names, or parts of names, of the metrics to show; by default all.

    Raises:
        ValueError: There is no such run, or none has such a metric.
    """
    left_out: list[str] = []

    def tell(what: str) -> None:
        say(what)
        left_out.append(what)

    settings = group(find_runs(given, tell), tell)
    names = dict.fromkeys(name for setting in settings for name in setting.metrics())
    if not names:
        raise ValueError("these runs have no metrics, as nothing could be measured; leave them out")
    unknown = [part for part in metrics if not any(asked(name, [part]) for name in names)]
    if unknown:
        raise ValueError(f"no run has a metric {' or '.join(unknown)}; there are {', '.join(names)}")
    shown = [name for name in names if asked(name, metrics)]
    equal = [name for name in shown if len(settings) > 1 and all_equal(settings, name)]
    numbers = metrics_table(settings, [name for name in shown if name not in equal])
    panels, curves_left = curves_of(settings, metrics)
    pictures, pictures_left = pictures_of(settings)

    def section(title: str, note: str = "", **content: Any) -> dict[str, Any]:
        empty = {"missing": [], "table": Table([], []), "pictures": [], "runs": [], "beside": False}
        return {"title": title, "note": note, **empty, **content}

    flags = flags_table(settings)
    questions = [
        section("Which settings differ?", "" if flags.rows else "In no flag.", table=flags),
        section("What did they find?", how_to_read(settings, equal), table=numbers, missing=left_out),
    ]
    if panels:
        left = f" In metrics.csv alone: {', '.join(curves_left)}." if curves_left else ""
        left += f" The first {LINES} settings are drawn." if len(settings) > LINES else ""
        last = max(steps[-1] for lines in panels.values() for steps, _ in lines.values())
        still = [name for name in panels if name.endswith(SCHEDULES)]
        figure = plots.curves(panels, x_label="batches", smooth=int(last) // 50, schedules=still)
        assert figure is not None  # a panel without anything to see is no panel of `curves_of`
        drawn = report.drawn("curves of " + ", ".join(panels), figure)
        questions.append(section("How did they learn?", f"Means over seeds.{left}", pictures=[drawn]))
    for name, beside in pictures.items():
        questions.append(section(name.replace("_", " "), pictures=beside, beside=True))
    if pictures_left:
        questions.append(section("", f"{pictures_left} more figures are in the folders of the runs."))
    every = [
        {**one, "data": report.describe_data(one["data"])} for setting in settings for one in setting.results
    ]
    questions.append(section("How was each made?", runs=every))
    title = " beside ".join(setting.label for setting in settings[:4]) + (" …" if len(settings) > 4 else "")
    report.write_sections(path, title, [{"title": "Side by side", "note": "", "questions": questions}])
    return Comparison(title, flags, numbers, equal, panels)

"""Settings: trainings that differ in nothing but the seed, whatever their folders are called."""

import glob
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from datamodules.files import say
from rdfia.engine import report, resume, runs
from rdfia.engine.differences import Key, by_seed

# Flags that say where a training is, how it is computed or which repeat it is: nothing of what is learned.
NEUTRAL = resume.MAY_CHANGE - {"max_epochs"} | {"name", "seed", "seeds", "part", "examine", "fast_dev_run"}
OF_MODULE = "module: "


@dataclass
class Setting:
    """Trainings that differ in nothing but the seed.

    Attributes:
        label: Its name on the page.
        flags: Of all of them, but for those of `NEUTRAL`.
        folders: Their run folders.
        results: What each has found, the content of its results.json.
    """

    label: str
    flags: dict[str, Any]
    folders: list[Path] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def values(self, metric: str) -> dict[Key, float]:
        """Return the values of a metric by seed, of a single training those of its draws or splits.

        Of several trainings with draws each, the means of these.
        """
        found: dict[Key, float] = {}
        for one in self.results:
            values = one["metrics"].get(metric, {"values": []})["values"]
            known = [value for value in values if value is not None]
            if (of_seeds := by_seed(one, metric)) is not None:
                found |= of_seeds
            elif len(self.results) == 1:
                draws = enumerate(values)
                found |= {(one["seeds"][0], draw): value for draw, value in draws if value is not None}
            elif known:
                found[(one["seeds"][0],)] = mean(known)
        return found

    def lacking(self, metric: str) -> int:
        """Return how many values of a metric are no numbers, as those of a training that diverged."""
        every = [one["metrics"][metric]["values"] for one in self.results if metric in one["metrics"]]
        return sum(value is None for values in every for value in values)

    def metrics(self) -> dict[str, None]:
        """Return the names of all metrics, in order."""
        return dict.fromkeys(name for one in self.results for name in one["metrics"])


def find_runs(given: Sequence[str], tell: Callable[[str], None] = say) -> list[Path]:
    """Return the folders of trainings that are meant by folders and patterns, each once, in order.

    A table of trainings stands for the trainings in it.

    Args:
        given: Folders and patterns.
        tell: Is told what is left out.

    Raises:
        ValueError: One of them holds none.
    """
    found: dict[Path, Path] = {}  # by where it really lies
    for one in given:
        place = os.path.expanduser(one)
        places = [place] if os.path.isdir(place) else sorted(glob.glob(place))  # names may hold brackets
        folders = [path for path in map(Path, places) if path.is_dir()]
        meant = {folder: in_order(folder) for folder in folders}
        if not any(meant.values()):
            why = "has no results.json" if folders else "is no folder"
            raise ValueError(f"{one} {why}; name finished runs, such as runs/gan or 'runs/sweep-*'")
        left = [str(folder) for folder, its in meant.items() if not its]
        for folder, its in meant.items():  # of a table that is not finished, rows that are not
            if its and folder not in its and not (folder / "results.json").is_file():
                begun = {path.parent for path in folder.glob("*/args.json")}
                left += sorted(map(str, begun - set(its)))
        if left:
            tell(f"left out, as they have no results.json: {', '.join(left)}")
        for folder in itertools.chain.from_iterable(meant.values()):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def in_order(folder: Path) -> list[Path]:
    """Return the folders in a run folder that have results, the rows of a table as it has them; or itself."""
    own = folder / "results.json"
    inner = sorted(path.parent for path in folder.glob("*/results.json"))
    if inner and own.is_file():
        rows = dict.fromkeys(name.rpartition("/")[0] for name in runs.read_results(own)["metrics"])
        places = {runs.row_name(row, "*"): place for place, row in enumerate(rows)}
        inner.sort(key=lambda path: places.get(re.sub(r"\d+$", "*", path.name), len(places)))
    return inner or ([folder] if own.is_file() else [])


def trainings(folder: Path, tell: Callable[[str], None] = say) -> list[tuple[Path, dict[str, Any]]]:
    """Return the training of a run folder and what it found; those of a table whose rows wrote no results.

    Rows that are no training, such as what became of another row's network, are left out, which ``tell`` is
    told. The table's time and memory are those of all its trainings; a row has its own seconds.
    """
    results = runs.read_results(folder / "results.json")
    seeds, by_row = results["seeds"], dict[str, list[str]]()
    for name, metric in results["metrics"].items():
        if len(metric["values"]) == len(seeds):
            by_row.setdefault(name.rpartition("/")[0], []).append(name)
    trained = {
        row: names for row, names in by_row.items() if (folder / runs.row_name(row, seeds[0])).is_dir()
    }
    if not trained:
        return [(folder, results)]
    if left := [row for row in by_row if row and row not in trained]:
        tell(f"{folder}: left out, as they are no trainings: {'; '.join(left)}")
    found = []
    for row, names in trained.items():
        for place, seed in enumerate(seeds):
            values = {name.rpartition("/")[2]: results["metrics"][name]["values"][place] for name in names}
            metrics = {
                name: {"mean": value, "std": None, "values": [value]} for name, value in values.items()
            }
            own = folder / runs.row_name(row, seed)
            of_row: dict[str, Any] = {
                "name": f"{folder.name}/{own.name}",
                "seeds": [seed],
                "metrics": metrics,
            }
            of_row |= {"wall_seconds": values.get("seconds"), "peak_memory_gb": None}
            found.append((own, results | of_row))
    return found


def group(folders: Sequence[Path], tell: Callable[[str], None] = say) -> list[Setting]:
    """Return the settings of trainings, in the order in which they are first met.

    Raises:
        ValueError: A training is there twice, under two names; or a file is damaged.
    """
    settings: dict[str, Setting] = {}
    for folder, results in itertools.chain.from_iterable(trainings(one, tell) for one in folders):
        flags = read_flags(folder)
        # Not the data's hash, which is another for each seed where the seed also splits them.
        key = json.dumps([results["technique"], report.describe_data(results["data"]), flags], sort_keys=True)
        setting = settings.setdefault(key, Setting("", flags))
        twice = {seed for one in setting.results for seed in one["seeds"]} & set(results["seeds"])
        if twice:
            each = zip(setting.folders, setting.results, strict=True)
            other = next(one for one, its in each if twice & set(its["seeds"]))
            raise ValueError(f"{folder} repeats a training of {other} (seed {min(twice)}); leave one out")
        setting.folders.append(folder)
        setting.results.append(results)
    for setting in settings.values():
        setting.label = label_of([folder.name for folder in setting.folders])
    found = list(settings.values())
    for alike in same_label(found):  # of two tables, the same row
        for setting in alike:
            setting.label = f"{setting.folders[0].parent.name}/{setting.label}"
    for alike in same_label(found):
        names = [name for name in alike[0].flags if len({str(one.flags.get(name)) for one in alike}) > 1]
        for place, setting in enumerate(alike, 1):
            differ = [f"{name.replace('_', '-')} {said(setting.flags.get(name))}" for name in names[:3]]
            setting.label = f"{setting.label}, {', '.join(differ) or place}"
    return found


def same_label(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Return the settings that have the label of another, those of one label together."""
    by_label: dict[str, list[Setting]] = {}
    for setting in settings:
        by_label.setdefault(setting.label, []).append(setting)
    return [alike for alike in by_label.values() if len(alike) > 1]


def read_flags(folder: Path) -> dict[str, Any]:
    """Return the flags of a training, but for those of `NEUTRAL`; none where it wrote none.

    With the values that its module took for those that were not given: recipes differ in these. What the
    module alone has, such as the names of classes, is there under its name after `OF_MODULE`.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / "args.json"
    try:
        flags = json.loads(path.read_text()) if path.exists() else {}
        of_module = flags.pop("module", {})
        flags = {name: of_module.pop(name, value) for name, value in flags.items()}
        kept = {name: value for name, value in flags.items() if name not in NEUTRAL | {"data"}}
        return kept | {
            f"{OF_MODULE}{name}": value for name, value in of_module.items() if name not in NEUTRAL
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); leave {folder} out") from error


def label_of(names: Sequence[str]) -> str:
    """Return what the names of runs have in common, without the number or seed at their end."""
    if len(names) == 1:
        return re.sub(r"_seed_\d+$", "", names[0])
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike)
    if any(name[len(common) :][:1].isdecimal() for name in names):  # seeds 10 and 11 have a digit in common
        common = re.sub(r"\d+$", "", common)
    return re.sub(r"[-_. ]*(seed)?[-_. ]*$", "", common) or names[0]


def said(value: Any) -> str:
    """Return the value of a flag in words; ``by default`` where it was not given."""
    if value is None:
        return "by default"
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)

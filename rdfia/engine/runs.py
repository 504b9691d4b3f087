"""The run folder: all that a run writes, and all that a report reads.

A folder has a stable name, so that the same command finds its own checkpoint and goes on::

    runs/<name>/args.json  metrics.csv  checkpoints/{last,best}.ckpt  figures/*.png  results.json

No file there is ever half written.
"""

import csv
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image

from datamodules.files import atomic_file
from rdfia.common.environment import device_name, git_commit, is_dry_run
from rdfia.common.figure_style import as_png, as_svg
from rdfia.common.memory import peak_memory
from rdfia.engine.wandb_run import wandb_loggers


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, completely or not at all."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


class MetricsCSV(Logger):
    """All logged metrics in one ``metrics.csv``, which a resumed run continues without gaps or doubles.

    A row is known by its step (batches trained) and its stage, so steps that are trained again after a
    crash replace what their rows said. (Lightning's own CSV logger deletes the file when a run resumes.)
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}
        self.due = 0.0  # when the file is written again, by the monotonic clock
        self.last_step: int | None = -1  # that this process logged
        for row in read_history(self.path):
            self._add({name: value for name, value in row.items() if value})

    def _add(self, row: dict[str, Any]) -> None:
        stage = min((name.split("/")[0] for name in row if "/" in name), default="")
        self.rows.setdefault((int(row["step"]), stage), {}).update(row)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """None: a run has one history."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: args.json and the checkpoint hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row, or to that of the same batch."""
        # A second row of a batch is an epoch's end, which a run that resumes from its checkpoint does not
        # repeat. (Rows of an earlier start do not count: batches trained again are no ends.)
        if step == self.last_step:
            self.due = 0.0
        self.last_step = step
        self._add({"step": step or 0, **metrics})

    @rank_zero_only
    def save(self) -> None:
        """Write the file, if that takes at most a hundredth of the time.

        Lightning asks for it after each row, and the file grows with each: 4,690 rows took 75 seconds.
        """
        if (started := time.monotonic()) >= self.due:
            self.write()
            self.due = time.monotonic() + max(1.0, 100 * (time.monotonic() - started))

    def write(self) -> None:
        """Write the file from scratch, completely or not at all."""
        rows = [self.rows[key] for key in sorted(self.rows)]
        names = sorted({name for row in rows for name in row} - {"step", "epoch"})
        with atomic_file(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *names])
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write the history that belongs to the checkpoint."""
        self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file."""
        if self.rows:
            self.write()


def read_metrics(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and values of each metric in ``metrics.csv``, nothing if the run wrote no file."""
    history: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_history(folder / "metrics.csv"):
        for name, value in row.items():
            if value and name != "step":
                steps, values = history.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return history


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of a history, in order, values as they are written; none if there is no file.

    Raises:
        ValueError: It is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"])
            [float(value) for value in row.values() if value]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no history of a run; delete it") from error
    return rows


def write_figure(folder: Path, name: str, figure: Figure) -> Path:
    """Write ``figures/<name>.png``, and ``.svg`` of lines and letters; return the path of the first."""
    path = folder / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        part.write_bytes(as_png(figure))
    if (drawing := as_svg(figure)) is None:
        path.with_suffix(".svg").unlink(missing_ok=True)
    else:
        with atomic_file(path.with_suffix(".svg")) as part:
            part.write_bytes(drawing)
    return path


def save_figure(folder: Path, name: str, figure: Figure | None, trainer: lightning.Trainer) -> None:
    """Write ``figures/<name>.png`` and show it in Weights & Biases if that is on; nothing in a dry run.

    None stands for a figure in which there would be nothing to see; that of an earlier training goes, too.
    """
    if is_dry_run(trainer):
        return
    if figure is None:
        for suffix in (".png", ".svg"):
            (folder / "figures" / f"{name}{suffix}").unlink(missing_ok=True)
        return
    path = write_figure(folder, name, figure)
    for logger in wandb_loggers(trainer):
        logger.log_image(name.split("_epoch_")[0], [str(path)])


def save_film(
    folder: Path, name: str, frames: list[np.ndarray], trainer: lightning.Trainer, description: str = ""
) -> None:
    """Write ``figures/<name>.gif``: 10 frames a second, the last one for 2 seconds; nothing in a dry run.

    And ``figures/<name>.mp4``, which is smaller, where ffmpeg is installed.

    Args:
        folder: The run folder.
        name: Of the film.
        frames: Each (H, W) or (H, W, 3) uint8.
        trainer: Says whether it is a dry run.
        description: What there is to see, kept in the file as its comment.
    """
    if is_dry_run(trainer) or not frames:
        return
    first, *rest = [Image.fromarray(frame) for frame in frames]
    shown = [100] * len(rest) + [2000]
    film = folder / "figures" / f"{name}.gif"
    with atomic_file(film) as part:
        known = {"comment": description} if description else {}
        first.save(part, format="gif", save_all=True, append_images=rest, duration=shown, loop=0, **known)
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg:
        # Players want even sides, and colours at half the size.
        even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
        try:
            with atomic_file(film.with_suffix(".mp4")) as part:
                command = [ffmpeg, "-y", "-loglevel", "error", "-i", str(film), *even, "-f", "mp4", str(part)]
                subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no {film.with_suffix('.mp4').name}: ffmpeg failed, {error}", file=sys.stderr)


def summarized(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, dict[str, Any]]:
    """Return values by name, one per seed, with their mean and sample standard deviation.

    What is not a number becomes None, and mean and deviation are those of the rest. A share may come with
    ``<name>_of``, of how many it is one: of one seed it is written with the share, and with the share's 95 %
    interval (Wilson 1927). Several seeds have their deviation.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, values in metrics.items():
        if name.removesuffix("_of") in metrics and name.endswith("_of"):
            continue
        known = [None if value is None or not math.isfinite(value) else value for value in values]
        numbers = torch.tensor([value for value in known if value is not None], dtype=torch.float64)
        mean = numbers.mean().item() if len(numbers) else None
        spread = numbers.std().item() if len(numbers) > 1 else None
        summary[name] = {"mean": mean, "std": spread, "values": known}
        count = metrics.get(f"{name}_of", [None])[0]
        if count is not None and mean is not None and len(numbers) == 1:
            summary[name] |= {"of": int(count), "interval": list(wilson(mean, int(count)))}
    return summary


def write_results(
    folder: Path,
    trainer: lightning.Trainer,
    *,
    technique: str,
    seeds: list[int],
    data: dict[str, Any],
    metrics: Mapping[str, Sequence[float | None]],
    selection: str,
    wall_seconds: float,
    notes: list[str],
    status: str = "finished",
) -> dict[str, Any]:
    """Write ``results.json``, the only source of numbers for README and report, and return its content.

    Scored again without further training, a run keeps what is known of its training: command, commit, device;
    what scored it is ``scored_again``, if that is another.

    Args:
        folder: The run folder.
        trainer: Says device and precision.
        technique: Such as ``gan``.
        seeds: One for each value of a metric.
        data: Name, counts and sha256 of the data.
        metrics: Values by name, one per seed, see `summarized`.
        selection: How the checkpoint was chosen.
        wall_seconds: Time of training.
        notes: What a reader must know.
        status: ``finished``, or what became of it instead, such as ``diverged``.
    """
    summary = summarized(metrics)
    training = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": git_commit(),
        "device": device_name(trainer),
        "precision": str(trainer.precision),
        "wall_seconds": round(wall_seconds, 1),
        "peak_memory_gb": round(peak_memory(), 2),
    }
    if (device := trainer.strategy.root_device).type == "cuda":
        training["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    path = folder / "results.json"
    with suppress(OSError, ValueError):  # there is none, or it is damaged
        before = read_results(path)
        if before.get("wall_seconds") == training["wall_seconds"]:
            scored = {name: training[name] for name in ("command", "commit", "device")}
            training = {name: before.get(name, value) for name, value in training.items()}
            if scored != {name: training[name] for name in scored}:
                training["scored_again"] = scored
    results = {
        "name": folder.name,
        "technique": technique,
        **training,
        "seeds": seeds,
        "data": data,
        "metrics": summary,
        "selection": selection,
        "status": status,
        "notes": notes,
    }
    if trainer.is_global_zero and not is_dry_run(trainer):
        write_json(path, results)
        for logger in wandb_loggers(trainer):
            logger.log_summary({name: one["mean"] for name, one in summary.items()})
    return results


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of ``count`` items, by Wilson's score.

    13 of 13 leave it open whether the share is 0.77 or 1.
    """
    from scipy.stats import binomtest

    found = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return round(float(found.low), 4), round(float(found.high), 4)


# What each results.json holds, and of which kind; that of an older version, or of another program, may not.
RESULTS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "technique": str,
    "command": str,
    "commit": str,
    "device": str,
    "precision": str,
    "wall_seconds": (int, float),
    "seeds": list,
    "data": dict,
    "metrics": dict,
    "selection": str,
    "status": str,
    "notes": list,
}


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a results.json.

    Raises:
        ValueError: It is damaged, or not of this version.
    """
    try:
        results = json.loads(path.read_text())
        if not isinstance(results, dict):
            raise ValueError(f"it holds a {type(results).__name__}")
        results.setdefault("status", "finished")  # earlier versions wrote none
        if missing := RESULTS.keys() - results.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        for name, kind in RESULTS.items():
            if not isinstance(results[name], kind):
                raise ValueError(f"its {name} is a {type(results[name]).__name__}")
        for name, metric in results["metrics"].items():
            known = isinstance(metric, dict) and isinstance(metric.get("values"), list)
            numbers = [metric.get("mean"), metric.get("std"), *metric["values"]] if known else [""]
            if not all(number is None or _is_number(number) for number in numbers) or "mean" not in metric:
                raise ValueError(f"its metric {name} is not mean, std and values")
            if "std" not in metric:
                raise ValueError(f"its metric {name} has no std")
            interval = metric.get("interval", [0, 0])
            if not (isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))):
                raise ValueError(f"the interval of its metric {name} is not two numbers")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and the command makes it again") from error
    return results


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def row_name(row: str, seed: int | Literal["*"]) -> str:
    """Return the name of the folder in which a row of a table is trained with a seed, ``*`` for any."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', row)}_seed_{seed}"


def spread(metric: dict[str, Any], digits: int = 4) -> str:
    """Return mean ± std, a share with its interval, the value of a single seed, or ``nan`` for none."""
    if metric["mean"] is None:
        return "nan"
    if "interval" in metric:
        low, high = metric["interval"]
        return f"{metric['mean']:.{min(digits, 3)}f} [{low:.2f}, {high:.2f}]"
    return f"{metric['mean']:,.{digits}f}" + (
        f" ± {metric['std']:,.{digits}f}" if metric["std"] is not None else ""
    )

"""Weights & Biases beside the run folder: offline when it must be, and never a reason to die."""

import os
import platform
import re
import signal
import socket
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import lightning
from lightning.pytorch.loggers import WandbLogger

from datamodules.files import atomic_file
from rdfia.common.environment import git_commit, is_first_process

FINISH_SECONDS = 60  # that a run waits for its last upload: without a network W&B would try for hours
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "scikit-learn", "numpy")


class TolerantWandbLogger(WandbLogger):
    """Logs to Weights & Biases; once that fails, the run resumes without it."""

    failed = False
    every_n_steps = 10  # each row is a call, of which a GPU would make hundreds in a second

    def attempt(self, work: Callable[..., Any], *given: Any) -> None:
        """Call something of W&B's, unless an earlier call failed."""
        if self.failed:
            return
        try:
            work(*given)
        except Exception as error:
            self.failed = True
            warnings.warn(f"going on without Weights & Biases: {error}", stacklevel=3)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, pictures and tables."""
        self.attempt(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Log settings."""
        self.attempt(super().log_hyperparams, params)

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Say what W&B's own table of runs, and a sweep, goes by."""
        self.attempt(lambda: self.experiment.summary.update(values))


def wandb_loggers(trainer: lightning.Trainer) -> list[TolerantWandbLogger]:
    """Return the trainer's loggers to Weights & Biases: one if that is on."""
    return [logger for logger in trainer.loggers if isinstance(logger, TolerantWandbLogger)]


def wandb_logger(name: str, folder: Path, flags: dict[str, Any]) -> TolerantWandbLogger | None:
    """Return a Weights & Biases logger; offline without login or network, None if it cannot start.

    The run's id is kept in the run folder, so a resumed run continues the same W&B run. Its configuration
    holds the flags, the commit and the versions of what was used.
    """
    import wandb  # slow to import, and off by default

    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    # W&B's own process inherits what is blocked: signals of a job reach all its processes, and this one is to
    # go on until the run has ended.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        offline = os.environ.get("WANDB_MODE") == "offline"
        if "WANDB_MODE" not in os.environ:
            reached = _answers(wandb.setup().settings.base_url)
            offline = not (reached and wandb.login(prompt=False, verify=False))
        # Lightning's own offline=True sets a mode that newer versions of wandb do not know.
        mode = "offline" if offline else None
        run_id = _wandb_id(folder / "wandb_id.txt")
        logger = TolerantWandbLogger(project="rdfia", name=name, id=run_id, save_dir=str(folder), mode=mode)
        experiment = logger.experiment
        versions = {package: metadata.version(package) for package in PACKAGES}
        config = flags | {"commit": git_commit(), "python": platform.python_version(), "versions": versions}
        if is_first_process():  # the others have a stand-in
            experiment.config.update(config, allow_val_change=True)
        experiment.define_metric("train/batch")
        experiment.define_metric("*", step_metric="train/batch")
    except Exception as error:
        # Whatever goes wrong there must not cost the training run.
        warnings.warn(f"training without Weights & Biases: {error}", stacklevel=2)
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    if offline:
        print("W&B is offline: no login, or no network")
    return logger


def _answers(address: str) -> bool:
    """Return whether a web server, or the proxy in front of it, can be reached."""
    parts = urlsplit(address)
    if parts.hostname and not proxy_bypass(parts.hostname):
        parts = urlsplit(getproxies().get(parts.scheme, address))
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError:
        return False
    return True


def _wandb_id(path: Path) -> str | None:
    """Return the id of the run's W&B run, made once, or by its sweep, and kept in its folder."""
    known = path.exists() and re.fullmatch(r"[a-z0-9]+", path.read_text(errors="replace"))
    of_sweep = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    if is_first_process() and (of_sweep or not known):
        with atomic_file(path) as part:
            part.write_text(of_sweep or uuid.uuid4().hex[:8])
    return path.read_text() if path.exists() else None


def finish_last(*, failed: bool = False) -> None:
    """End the Weights & Biases run of this process, if there is one, so that the next gets its own."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    runs, offline = Path(wandb.run.settings.sync_dir).parent, wandb.run.offline
    try:
        wandb.run.finish(exit_code=int(failed))
        missing = "W&B was offline" if offline else ""
    except Exception as error:
        missing = f"W&B did not end well: {error}"
        with suppress(Exception):  # else Python tries it, and fails with a traceback, once more at its end
            wandb.teardown(exit_code=1)
    if missing:  # of a run that was resumed, too
        kind = "offline-run-*" if offline else "run-*"
        print(f"{missing}; upload it with: wandb sync {'' if offline else '--include-online '}{runs}/{kind}")


def log_page(
    page: Path,
    title: str,
    tables: Mapping[str, tuple[list[str], list[list[Any]]]],
    curves: Mapping[str, Mapping[str, tuple[Any, Any]]],
) -> bool:
    """Show a page in Weights & Biases: a run with its tables, its curves to point at, and the page itself.

    Args:
        page: A file beside which a folder keeps what W&B writes.
        title: Name of the run.
        tables: By name: columns and rows.
        curves: By label of the y axis, then by name of the line: x and y values.

    Returns:
        Whether it is shown; a warning says why not.
    """
    logger = wandb_logger(title, page.with_suffix(".wandb"), {"page": page.name})
    if logger is None:
        return False
    import wandb

    shown: dict[str, Any] = {"page": wandb.Html(page.read_text())}
    for name, (columns, rows) in tables.items():
        shown[name] = wandb.Table(columns=[*columns], data=rows)
    for label, lines in curves.items():
        xs, ys = [list(x) for x, _ in lines.values()], [list(y) for _, y in lines.values()]
        keys = [name or label for name in lines]
        shown[f"curves/{label}"] = wandb.plot.line_series(xs, ys, keys=keys, title=label, xname="batches")
    logger.attempt(logger.experiment.log, shown)
    return not logger.failed


def log_table(trainer: lightning.Trainer, columns: list[str], rows: list[list[Any]]) -> None:
    """Show a table in Weights & Biases, if that is on."""
    for logger in wandb_loggers(trainer):
        logger.log_table("table", columns=columns, data=rows)

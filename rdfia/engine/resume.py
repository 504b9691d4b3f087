"""Whether a run goes on as it began: its flags, its data, its checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rdfia.engine.args import RunArgs

HINT = "use another --name, or --overwrite to start from scratch"
# Flags that may differ when a run resumes; any other would make two runs of one.
MAY_CHANGE = frozenset(
    {
        "cache",
        "cache_dir",
        "image_cache",
        "memory_gb",
        "max_epochs",
        "data_dir",
        "output_dir",
        "accelerator",
        "devices",
        "num_nodes",
        "wandb",
        "overwrite",
        "check",
        "compile",
        "graph",
        "deterministic",
        "profile",
    }
)


# Of a training whose schedules follow from how much of max_epochs is done.
MAY_CHANGE_BUT_LENGTH = MAY_CHANGE - {"max_epochs"}


def check_checkpoint(path: Path, module: nn.Module, max_epochs: int) -> None:
    """Check that ``module`` can resume from a checkpoint.

    Raises:
        ValueError: It is unreadable, of another technique or size, or already trained longer than asked for.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        epoch = int(checkpoint.get("epoch", 0))
    except Exception as error:
        why = type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint ({why}); {HINT}") from error
    own = {name: value.shape for name, value in module.state_dict().items()}
    if strange := {name for name in shapes | own if shapes.get(name) != own.get(name)}:
        raise ValueError(
            f"{path} is not a checkpoint of this {type(module).__name__} ({min(strange)} differs); {HINT}"
        )
    if epoch >= max_epochs:
        raise ValueError(
            f"{path} is in epoch {epoch + 1}, this command says --max-epochs {max_epochs}; {HINT}"
        )


def plain(args: RunArgs) -> dict[str, Any]:
    """Return the flags as a file holds them: paths as text, tuples as lists."""
    flags: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    return flags


def written_flags(args: RunArgs, module: nn.Module, data: dict[str, Any]) -> dict[str, Any]:
    """Return what ``args.json`` holds: the flags, the module's own settings and the data.

    The settings, because flags that are not given follow a default, and another version may have another.
    """
    settings = dict(getattr(module, "hparams", {}))
    more: dict[str, Any] = json.loads(json.dumps({"module": settings, "data": data}, default=str))
    return plain(args) | more


def _what_counts(data: Any) -> Any:
    """Return a description of data without what was not read: a note beside pictures makes no other data."""
    if not isinstance(data, dict):
        return data
    return {name: _what_counts(value) for name, value in data.items() if name != "not_read"}


def _differing(then: Any, now: Any, name: str = "") -> str:
    """Return in what two descriptions of data differ, in words."""
    if isinstance(then, dict) and isinstance(now, dict):
        alike = [one for one in then | now if _what_counts(then.get(one)) == _what_counts(now.get(one))]
        parts = [one for one in then | now if one not in alike and one != "not_read"]
        return ", ".join(_differing(then.get(one), now.get(one), f"{name} {one}") for one in parts)
    return f"{name} {json.dumps(then)}, now {json.dumps(now)}".strip()


def check_flags(path: Path, flags: dict[str, Any], may_change: frozenset[str] = MAY_CHANGE) -> dict[str, Any]:
    """Check that a run resumes as it began, but for flags of ``may_change``; return what it began with.

    Raises:
        ValueError: One differs, or the file is damaged.
    """
    try:
        began = dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {HINT}") from error
    if _what_counts(began.get("data", flags["data"])) != _what_counts(flags["data"]):
        differ = _differing(began["data"], flags["data"])
        raise ValueError(f"{path.parent} was trained on other data: {differ}; {HINT}")
    for name, value in began.items():
        if name in flags and name not in may_change | {"module", "data"} and flags[name] != value:
            flag = f"--{name.replace('_', '-')}"
            then, now = ("by default" if one is None else one for one in (value, flags[name]))
            raise ValueError(f"{path} has {flag} {then}, this command says {now}; {HINT}")
    for name, value in began.get("module", {}).items():
        now = flags["module"].get(name)
        if name not in may_change and now != value:
            raise ValueError(f"{path} trains with {name} {value}, this version with {now}; {HINT}")
    return began

"""What an interrupted run of visualize.py keeps: damaged, on a full disk, begun on another device."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rdfia.interpret.commands import common as shared
from rdfia.interpret.commands.common import moved, once, read_part, seconds_kept


def trainer(device: str = "cpu") -> SimpleNamespace:
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(fast_dev_run=False, strategy=strategy)


def test_a_damaged_part_is_named(tmp_path):
    once(tmp_path, trainer(), "maps", lambda: {"maps": torch.rand(50)})
    path = tmp_path / "parts" / "maps.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-200], b"text"):
        path.write_bytes(damaged)
        for call in (lambda: once(tmp_path, trainer(), "maps", dict), lambda: seconds_kept(tmp_path)):
            with pytest.raises(ValueError, match=r"maps.pt is damaged \(.*delete it"):
                call()
    torch.save({"other": 1}, path)
    with pytest.raises(ValueError, match="is damaged"):
        read_part(path)


def test_a_full_disk_is_the_systems_own_error(tmp_path, monkeypatch):
    """torch.save hid it behind a RuntimeError, which was a traceback."""

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        once(tmp_path, trainer(), "maps", lambda: {"maps": torch.rand(5)})
    assert list((tmp_path / "parts").iterdir()) == []


def test_parts_go_on_on_another_device(tmp_path, monkeypatch):
    """Tensors are kept for a CPU, whatever made them, and come back on the device of the run."""
    made = {"maps": torch.rand(3), "list": [torch.zeros(2), 0.5], "name": "x"}
    placed = []
    monkeypatch.setattr(shared, "moved", lambda found, device: placed.append(str(device)) or found)
    once(tmp_path, trainer(), "maps", lambda: made)
    once(tmp_path, trainer("meta"), "maps", lambda: 1 / 0)
    assert placed == ["cpu", "meta"]
    monkeypatch.undo()
    again = once(tmp_path, trainer("meta"), "maps", lambda: 1 / 0)
    assert again["maps"].device.type == again["list"][0].device.type == "meta"
    assert again["list"][1:] == [0.5]
    assert again["name"] == "x"
    assert moved(again["maps"], "meta").shape == (3,)

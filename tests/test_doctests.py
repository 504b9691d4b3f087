"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from conftest import ROOT, write_scene15, write_torchvision_sets, write_usps


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the project."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = [
    module_name(path)
    for folder in ("rdfia", "datamodules")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>>" in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    # What is not in the embedded sample lies in `data`, as the examples name it.
    monkeypatch.chdir(tmp_path)
    write_scene15(tmp_path / "data")
    write_usps(tmp_path / "data" / "USPS")
    write_torchvision_sets(tmp_path / "data")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted
    assert not results.failed


def test_each_module_and_data_module_has_an_example():
    for folder in ("rdfia", "datamodules"):
        for path in (ROOT / folder).rglob("*.py"):
            for kind in re.findall(r"^class (\w+Module)\(.*Module\)", path.read_text(), re.MULTILINE):
                module = importlib.import_module(module_name(path))
                assert ">>>" in getattr(module, kind).__doc__, f"{kind} shows no example"

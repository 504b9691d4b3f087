"""Who imports whom: techniques know nothing of each other, data nothing of techniques."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import datamodules
import rdfia

TECHNIQUES = ("transfer", "interpret", "adaptation", "generation")
# What runs a technique on data, and the flags of that.
EXPERIMENTS = ("experiment", "config")
# Of the data, what knows no data set: how files are written, and where each set lies.
NO_DATA = ("datamodules.files", "datamodules.layouts")


def modules(folder: str) -> list[Path]:
    """Return the modules of a folder, those of folders in it too."""
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules of ours that a file imports, at its top or inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            assert node.module
            inside = (ROOT / Path(*node.module.split("."))).is_dir()
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {node.module}
    return {name for name in found if name.split(".")[0] in ("rdfia", "datamodules", "scripts")}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_stands_on_itself_and_on_what_all_share(technique):
    allowed = (f"rdfia.{technique}.", "rdfia.common.", *NO_DATA)
    for path in modules(f"rdfia/{technique}"):
        if path.stem.startswith(EXPERIMENTS) or path.parent.name == "commands":
            others = tuple(f"rdfia.{other}." for other in TECHNIQUES if other != technique)
            strange = {name for name in imported(path) if name.startswith(("scripts", *others))}
            assert not strange, f"{path} imports {strange}"
            continue
        strange = {name for name in imported(path) if not name.startswith(allowed)}
        assert not strange, f"{path} imports {strange}"


def test_what_all_share_knows_no_technique():
    allowed = {"common": ("rdfia.common.", *NO_DATA)}
    # Which data sets there are, by name: flags choose from them.
    allowed["engine"] = ("rdfia.engine.", "datamodules.DATASETS", *allowed["common"])
    for room, names in allowed.items():
        for path in modules(f"rdfia/{room}"):
            strange = {name for name in imported(path) if not name.startswith(names)}
            assert not strange, f"{path} imports {strange}"


def test_data_knows_no_technique():
    for path in modules("datamodules"):
        strange = {name for name in imported(path) if not name.startswith("datamodules.")}
        assert not strange, f"{path} imports {strange}"


def test_modules_do_not_import_in_circles():
    graph = {}
    for folder in ("rdfia", "datamodules"):
        for path in modules(folder):
            if path.name != "__init__.py":  # of the packages, which name what lives in them
                graph[".".join(path.relative_to(ROOT).with_suffix("").parts)] = imported(path)
    while ends := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in ends}
    assert not graph, f"in a circle, or importing one: {sorted(graph)}"


@pytest.mark.parametrize("package", [rdfia, datamodules])
def test_public_names_are_there(package):
    assert package.__all__ == sorted(package._HOMES)
    for name in package.__all__:
        assert getattr(package, name) is getattr(
            importlib.import_module(f"{package.__name__}.{package._HOMES[name]}"), name
        )
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018 - asking is what is tested


def test_importing_the_packages_imports_nothing_else():
    code = "import sys, rdfia, datamodules; print([n for n in ('torch', 'numpy', 'PIL') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_400_lines_and_no_function_over_100():
    for folder in ("rdfia", "datamodules", "scripts"):
        for path in modules(folder):
            text = path.read_text()
            assert text.count("\n") <= 400, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef) and node.end_lineno:
                    length = node.end_lineno - node.lineno + 1
                    assert length <= 100, f"{node.name} of {path} has {length} lines"


def named(dotted: str) -> object:
    """Return what a dotted name stands for."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(dotted)


def test_what_prose_and_messages_name_is_there():
    texts = [path for folder in ("rdfia", "datamodules", "scripts") for path in modules(folder)]
    count = 0
    for path in [*texts, ROOT / "README.md"]:
        for dotted in re.findall(r"\b((?:rdfia|datamodules)(?:\.\w+)+)", path.read_text()):
            try:
                named(dotted)
            except (AttributeError, ModuleNotFoundError) as error:
                raise AssertionError(f"{path} names {dotted}") from error
            count += 1
    assert count > 100

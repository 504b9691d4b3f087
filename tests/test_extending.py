"""docs/extending.md works: a test follows it in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()


def files() -> dict[str, str]:
    """Return the code of the page by the file that the text before it names."""
    found = re.findall(
        r"`([\w/]+\.py)`[^\n`]*(?:`[^`\n]*`[^\n`]*)*:[^\n]*\n\n```python\n(.*?)```", PAGE, re.DOTALL
    )
    return dict(found)


def test_the_page_names_each_file_of_its_example():
    assert list(files()) == [
        "datamodules/rings.py",
        "rdfia/adaptation/methods/bnm.py",
        "rdfia/rotation/__init__.py",
        "rdfia/rotation/module.py",
        "rdfia/rotation/config.py",
        "rdfia/rotation/experiment.py",
        "scripts/train_rotation.py",
    ]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with the data set and the technique of the page."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("rdfia", "datamodules", "scripts"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in files().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(code)
    lines = re.findall(r"```text\n(.*?\n)```", PAGE)
    registries = {"DATASETS": "datamodules/__init__.py", "METHODS": "rdfia/adaptation/methods/__init__.py"}
    for line, (table, place) in zip(lines, registries.items(), strict=True):
        text = (root / place).read_text()
        assert f"{table} = {{\n" in text
        (root / place).write_text(text.replace(f"{table} = {{\n", f"{table} = {{\n{line}"))
    return root


def call(root, *command):
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_technique_trains_resumes_and_says_what_is_wrong(copy):
    flags = (
        "scripts/train_rotation.py",
        "--batch-size",
        "64",
        "--accelerator",
        "cpu",
        "--precision",
        "float32",
    )
    done = call(copy, *flags, "--max-epochs", "3")
    assert done.returncode == 0, done.stderr
    told = float(re.search(r"told right (\d\.\d+)", done.stdout)[1])
    # Rings and discs lie in the upper left, and after a turn elsewhere.
    assert told > 0.9
    again = call(copy, *flags, "--max-epochs", "3")
    assert again.returncode == 0, again.stderr
    assert f"told right {told:.3f}" in again.stdout
    wrong = call(copy, *flags, "--dataset", "ring")
    assert wrong.returncode == 2
    assert "--dataset 'ring' is none of rings, mnist, mnist-m, scene15, usps, fashion" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_method_trains_and_is_as_it_is_by_hand(copy):
    code = (
        "import lightning, torch",
        "from torch.utils.data import DataLoader",
        "from rdfia.adaptation.methods import module_of",
        "from rdfia.adaptation.methods.bnm import nuclear_norm_loss",
        "print(round(float(nuclear_norm_loss(99 * torch.eye(2))), 6))",
        "images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2",
        "batches = DataLoader([{'source': (images, labels), 'target': images}] * 2, batch_size=None)",
        "module = module_of('bnm')(image_size=8, classes=2)",
        "lightning.Trainer(max_epochs=2, logger=False, enable_checkpointing=False).fit(module, batches)",
        "print(module.last_row, module(images).shape)",
    )
    done = call(copy, "-c", "\n".join(code))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "-1.0"
    assert "torch.Size([8, 2])" in done.stdout
    wrong = call(copy, "scripts/train_dann.py", "--method", "bmn")
    assert wrong.returncode == 2
    assert "did you mean bnm?" in wrong.stderr


def test_the_code_of_the_page_is_as_ours_is(copy):
    linted = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--config",
            str(ROOT / "pyproject.toml"),
            *(str(copy / name) for name in files()),
        ],
        capture_output=True,
        text=True,
        cwd=copy,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.slow
def test_another_network_for_dann_is_handed_in(tmp_path):
    """The code of the page, for one epoch."""
    (code,) = re.findall(r"```python\n(import lightning\n.*?)```", PAGE, re.DOTALL)
    assert "max_epochs=4" in code
    short = code.replace("max_epochs=4", "max_epochs=1, logger=False, accelerator='cpu'")
    done = subprocess.run([sys.executable, "-c", short], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

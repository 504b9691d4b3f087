"""The site: notebooks are committed without outputs and run, all pages are listed, no warning is given."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_SECONDS = 180  # of a notebook


def test_there_is_a_notebook_for_each_technique():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"transfer", "interpretation", "adaptation", "generation"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_what_they_print(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 3
    assert len(cells) > len(code)  # and it is told what they do
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(re.findall(r"^[a-z_/]+$", index, re.M))
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert listed == pages | {f"notebooks/{path.stem}" for path in NOTEBOOKS}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_builds_without_a_warning_and_runs_the_notebooks(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "--color",
        str(ROOT / "docs"),
        str(tmp_path),
    ]
    built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    seconds = [
        float(found)
        for found in re.findall(r"Executed notebook in ([\d.]+) seconds", built.stderr + built.stdout)
    ]
    print("seconds of the notebooks:", seconds)
    assert len(seconds) == len(NOTEBOOKS)
    assert max(seconds) < MOST_SECONDS
    for path in NOTEBOOKS:
        page = (tmp_path / "notebooks" / f"{path.stem}.html").read_text()
        assert page.count("<img ") >= 1, path.stem
        assert "Traceback" not in page
    assert "FeatureExtractorSVM" in (tmp_path / "reference" / "rdfia" / "rdfia.transfer.html").read_text()
    assert "svm_layers" in (tmp_path / "index.html").read_text()  # README's pictures are found
    search = (tmp_path / "searchindex.js").read_text()
    assert "cGANModule" in search

"""README and docs: rendered from the results; commands parse, links lead somewhere, code runs."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import render_docs
from conftest import ROOT

from rdfia.engine.cli import parse

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def test_rendering_changes_nothing():
    rendered = render_docs.pages()
    assert ROOT / "README.md" in rendered
    assert len(rendered) >= 7
    for path, text in rendered.items():
        assert path.read_text() == text, f"{path.name}: run python scripts/render_docs.py"


def typed(template: str) -> list[str]:
    """Return the numbers of a template behind which stands no result, `published` or `setting`."""
    code = re.compile(r"```.*?```|\{\{.*?\}\}|\{%.*?%\}|`[^`\n]*`|\[[^\]]*\]\([^)]*\)", re.DOTALL)
    return re.findall(r"(?<![\w.])\d+\.\d+|\d+ %|± *\d", code.sub("", template))


def test_no_measured_number_is_typed_by_hand():
    text = "DANN reaches 98.2 % and `lr` 0.5 has {{ value('dann', 'x') }} ± 1"
    assert typed(text) == ["98.2", "0.5", "± 1"]
    allowed = {
        "README.md.j2": ["3.11", "95 %", "2.0"],
        "transfer.md.j2": ["1.1"],
        "interpretation.md.j2": ["95 %", "8 %", "1.1"],
        "gpu.md.j2": ["12.6"],  # of CUDA
    }
    for path in render_docs.TEMPLATES.glob("*.j2"):
        left = [number for number in typed(path.read_text()) if number not in allowed.get(path.name, [])]
        assert not left, path.name


def test_a_claim_that_is_no_longer_true_is_an_error():
    assert render_docs.claim(True, "it holds") == "it holds"
    with pytest.raises(render_docs.UntrueError, match="no longer say: it holds"):
        render_docs.claim(False, "it holds")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_tables_have_a_line_for_each_row(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) for line in table.splitlines()]
        assert len(set(cells)) == 1, table[:200]


def test_later_seeds_join_those_of_the_same_experiment_only(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(render_docs, "ROOT", tmp_path)

    def write(name, seed, score, **changes):
        found = {
            "command": f"train --seeds {seed}",
            "commit": "abc",
            "device": "CPU",
            "data": {"train": 9},
            "selection": "last epoch",
            "seeds": [seed],
            "metrics": {"score": {"mean": score, "std": None, "values": [score]}},
        }
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(found | changes))

    write("run", 0, 1.0)
    assert render_docs.spread("run", "score") == "1.000"
    write("run_more", 1, 3.0)
    assert render_docs.spread("run", "score") == "2.000 ± 1.414"
    assert render_docs.command("run") == (
        "```\ntrain --seeds 0\n```\n\n`results/run.json`: commit abc, CPU.\n\n"
        "```\ntrain --seeds 1\n```\n\n`results/run_more.json`: commit abc, CPU."
    )
    for seed, changes in ((0, {}), (1, {"data": {"train": 8}}), (1, {"metrics": {}})):
        write("run_more", seed, 3.0, **changes)
        with pytest.raises(render_docs.UntrueError, match="has not other seeds"):
            render_docs.mean("run", "score")


@pytest.mark.parametrize("text", ["{{ value('gan', 'no_such_score') }}", "{{ value('no_such_run', 'x') }}"])
def test_a_number_that_is_not_there_is_an_error(text):
    with pytest.raises((KeyError, OSError)):
        render_docs.environment().from_string(text).render()


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render_docs.environment().from_string("{{ vaule('gan', 'judge_fid') }}").render()


def test_a_page_that_differs_is_named(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(render_docs, "ROOT", tmp_path)
    monkeypatch.setattr(render_docs, "draw_layers", lambda: None)
    monkeypatch.setattr(render_docs, "pages", lambda: {page: "new"})
    with pytest.raises(ValueError, match=r"page.md differ; run: python scripts/render_docs.py"):
        render_docs.main(render_docs.Args(check=True))
    assert page.read_text() == "old"
    assert render_docs.main(render_docs.Args()) == ["page.md"]
    assert page.read_text() == "new"
    assert render_docs.main(render_docs.Args(check=True)) == []


def test_a_page_that_cannot_be_rendered_is_one_line(monkeypatch):
    def wrong():
        raise KeyError("judge_fd")

    monkeypatch.setattr(render_docs, "pages", wrong)
    with pytest.raises(ValueError, match="a page cannot be rendered: KeyError 'judge_fd'"):
        render_docs.main(render_docs.Args())


def test_readme_is_short():
    assert len(README.encode()) < 14_000
    assert max(map(len, README.splitlines())) <= 200


def commands() -> list[str]:
    """Return the command lines of scripts in README and docs."""
    found: list[str] = []
    for path, text in PAGES.items():
        blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        inline = [" ".join(code.split()) for code in re.findall(r"`(python scripts/[^`]+)`", text)]
        lines = [
            *inline,
            *re.findall(r"^(?:\S*submit\.sh .*?(?=scripts/train)|python )(?=scripts/)(.*)$", blocks, re.M),
        ]
        found += [line.removeprefix("python ") for line in lines if path.name != "extending.md"]
    return sorted({line for line in found if "…" not in line})


def test_commands_are_found():
    assert len(commands()) >= 25


@pytest.mark.parametrize("command", commands())
def test_a_command_has_flags_that_its_script_takes(command, monkeypatch, tmp_path):
    script, *flags = shlex.split(command, comments=True)
    module = importlib.import_module(script.removeprefix("scripts/").removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.chdir(tmp_path)
    named = [flag for flag in flags if flag.startswith(("./", "data/office/"))]
    for name in [*named, "runs/fine-tune"]:
        Path(name).mkdir(parents=True, exist_ok=True)  # that a reader would have
    if "--help" not in flags and hasattr(module, "Args"):
        parse(module.Args)


def test_make_has_the_targets_that_are_named():
    makefile = (ROOT / "Makefile").read_text()
    for text in PAGES.values():
        for target in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE):
            assert f"\n{target}:" in makefile, target


def test_links_pictures_and_results_exist():
    for path, text in PAGES.items():
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        for link in links:
            assert (path.parent / link).is_file(), f"{path.name}: {link}"
        for name in re.findall(r"`results/(\w+\.json)`", text):
            assert (ROOT / "results" / name).is_file(), name
        for name in re.findall(r"`(scripts/[\w/]+\.(?:py|sh|sbatch))`", text):
            assert (ROOT / name).is_file() or path.name == "extending.md", name


def test_each_page_can_be_reached_from_readme():
    for path in PAGES:
        named = f"docs/{path.name}"
        if path.name not in ("README.md", "index.md", "reference.md"):  # the site's own
            assert named in README or f"({path.name})" in README, named


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_notebook_code_runs(tmp_path):
    """README's two blocks, one after the other, with one small epoch and a folder of pictures."""
    from PIL import Image

    for part in ("train", "test"):
        for number in range(5):
            folder = tmp_path / "flowers" / part / f"kind_{number}"
            folder.mkdir(parents=True)
            for picture in range(14):
                Image.new("RGB", (260, 240), (40 * number, 10 * picture, 90)).save(folder / f"{picture}.png")
    code = "\n".join(blocks())
    assert "max_epochs=5" in code
    short = (
        "max_epochs=1, limit_train_batches=2, limit_val_batches=1, limit_test_batches=1, accelerator='cpu'"
    )
    code = code.replace("max_epochs=5", short)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

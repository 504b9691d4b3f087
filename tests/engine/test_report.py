import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from lab_highlights import SUMMARY
from lab_questions import CHAPTERS
from PIL import Image
from run_folders import metric, write_picture, write_run

from rdfia.engine import questions, report
from rdfia.engine.questions import Cell, Chapter, Question


class Page(HTMLParser):
    """What a page holds: addresses of images, their alt texts, cells, text."""

    def __init__(self, path: Path):
        super().__init__()
        self.images: list[dict] = []
        self.cells: list[tuple[dict, str]] = []
        self.text = ""
        self.open: dict | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        self.open = dict(attributes) if tag == "td" else None

    def handle_endtag(self, tag):
        if tag == "td":
            self.open = None

    def handle_data(self, data):
        self.text += data
        if self.open is not None:
            self.cells.append((self.open, data))


def test_a_table_holds_what_the_runs_found():
    runs = {
        "wide": {"metrics": {"a/accuracy": metric(0.9, 0.8), "a/count": metric(12345.0)}},
        "one": {"metrics": {"accuracy": metric(0.123456), "count": metric(None)}},
    }
    question = Question(
        "?",
        rows={"A": "wide:a", "B": "one", "C": "absent", "D": "wide:unknown"},
        columns={"accuracy": "accuracy", "how many": "count", "not measured": "time"},
        published={"A": "0.7"},
    )
    table = questions.answer(question, runs)
    assert table.header == ["", "accuracy", "how many", "published"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["A", "0.8500 ± 0.5000", "12,345", "0.7"],
        ["B", "0.1235", "nan", ""],
    ]
    assert table.rows[0][1] == Cell("0.8500 ± 0.5000", pytest.approx(0.85), "wide", "a/accuracy")


def test_what_others_are_compared_with_is_no_answer_by_itself():
    runs = {"gan": {"metrics": {"practical/fid": metric(6.0)}}}
    question = Question("?", rows={"theirs": "gan:practical", "wide": "gan:wide"}, columns={"FID": "fid"})
    assert questions.answer(question, runs).rows == []
    runs["gan"]["metrics"]["wide/fid"] = metric(5.0)
    assert [row[0].text for row in questions.answer(question, runs).rows] == ["theirs", "wide"]


def test_a_number_by_itself_needs_no_other():
    runs = {"svm": {"metrics": {"pool5/accuracy": metric(0.9)}}}
    rows = {"pool5": "svm:pool5/accuracy", "fire5": "svm:fire5/accuracy"}
    found = questions.answer(Question("Main numbers", rows=rows, columns={"value": ""}), runs)
    assert [row[0].text for row in found.rows] == ["pool5"]


def test_at_a_smaller_scale_only_what_belongs_to_it_is_asked_for():
    one = Question(
        "One?", rows={"a": "gan:a", "b": "cgan"}, figures={"a": "gan/samples", "b": "cgan/samples"}
    )
    other = Question("Other?", rows={"c": "dann"})
    (chapter,) = questions.asked([Chapter("Generation", [one, other])], ["gan", "svm"])
    (question,) = chapter.questions
    assert (question.title, question.rows) == ("One?", {"a": "gan:a"})
    assert question.figures == {"a": "gan/samples"}


def test_a_page_needs_nothing_else_and_says_what_is_missing(tmp_path):
    write_run(tmp_path, "gan", {"judge_fid": metric(1.25), "recall": metric(0.5)})
    write_picture(tmp_path / "gan" / "figures" / "samples.png")
    frames = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in range(0, 250, 5)]
    film = tmp_path / "gan" / "figures" / "film.gif"
    frames[0].save(film, save_all=True, append_images=frames[1:], comment="50 frames.")
    questions = [
        Question(
            "Is 1 < 2?",
            rows={"<b>ours</b>": "gan"},
            columns={"judge-FID": "judge_fid", "recall": "recall"},
            figures={"samples": "gan/samples", "as it learns": "gan/film", "lost": "gan/lost"},
        ),
        Question("What nobody asked of this run?", {"a": "gan:row"}, {"x": "x"}, {"y": "gan/y"}),
        Question("And the others?", rows={"other": "cgan", "third": "dann"}, columns={"recall": "recall"}),
    ]
    path = tmp_path / "report.html"
    report.write_report(
        path,
        "A lab",
        [Chapter("Generation", questions)],
        report.read_runs(tmp_path, ["gan", "cgan", "dann"]),
        runs_folder=tmp_path,
        summary=Question("", rows={"judge-FID": "gan:judge_fid"}, columns={"": ""}),
        failed={"cgan": "exit code 2"},
    )
    page, source = Page(path), path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", source)  # nothing is loaded
    assert "http" not in source
    assert "as it learns: 50 frames." in source
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == 1 + report.FRAMES
    assert sum(image.get("class") == "shown" for image in page.images) == 1 + 1
    assert source.count('type="range"') == 1
    for said in ("Is 1 < 2?", "<b>ours</b>", "cgan: failed: exit code 2", "dann: not run", "1,234 s"):
        assert said in page.text, said
    assert "lost: not drawn (a single value, or not asked for), gan/lost" in page.text
    assert "nobody asked" not in source
    assert "MNIST (60,000 train, 10,000 test)" in page.text
    shown = [(cell["data-metric"], text) for cell, text in page.cells if "data-metric" in cell]
    assert shown == [("judge_fid", "1.250"), ("judge_fid", "1.250"), ("recall", "0.500")]


def test_a_picture_is_no_wider_than_the_page(tmp_path):
    write_picture(tmp_path / "wide.png")
    (frame,) = report.picture("wide", tmp_path / "wide.png").frames
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(frame.partition(",")[2]))) as image:
        assert image.size[0] == report.WIDTH


def test_a_figure_is_found_in_the_run_or_in_its_first_training(tmp_path):
    for place in ("gan/figures/a.png", "gan/best_seed_1/figures/b.png", "gan/best_seed_0/figures/b.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        write_picture(tmp_path / place, 8)
    write_picture(tmp_path / "gan" / "figures" / "a.gif", 8)
    found = {name: report.find_figures(tmp_path, f"gan/{name}") for name in "abc"}
    assert report.find_figures(tmp_path, "gan/[a]") == report.find_figures(tmp_path, "gan/a*") == found["a"]
    assert report.find_figures(tmp_path, "gan:best/b") == [tmp_path / "gan/best_seed_0/figures/b.png"]
    assert report.find_figures(tmp_path, "gan:bes/b") == []
    assert found == {
        "a": [tmp_path / "gan/figures/a.gif"],
        "b": [tmp_path / "gan/best_seed_0/figures/b.png"],
        "c": [],
    }
    for name in "wxyz":
        write_picture(tmp_path / "gan" / "figures" / f"many_{name}.png", 8)
    stems = [path.stem for path in report.find_figures(tmp_path, "gan/many_*")]
    assert stems == ["many_w", "many_x", "many_y", "many_z"]
    for number in (0, 1, 2, 10):
        write_picture(tmp_path / "gan" / "figures" / f"image_{number}.png", 8)
    stems = [path.stem for path in report.find_figures(tmp_path, "gan/image_*")]
    assert stems == ["image_0", "image_1", "image_2", "image_10"]


def test_figures_that_are_not_shown_are_counted(tmp_path):
    runs = {"gan": write_run(tmp_path, "gan", {"judge_fid": metric(1.5)}, status="diverged")}
    for number in range(5):
        write_picture(tmp_path / "gan" / "figures" / f"image_{number}.png", 8)
    asked = Question("How good?", {"gan": "gan:judge_fid"}, {"FID": ""}, figures={"some": "gan/image_*"})
    report.write_report(tmp_path / "page.html", "t", [Chapter("c", [asked])], runs, runs_folder=tmp_path)
    page = Page(tmp_path / "page.html")
    assert "some: 2 more like these in gan/figures" in page.text
    assert "gan: diverged." in page.text


def test_a_run_without_numbers_says_why(tmp_path):
    results = write_run(tmp_path, "attacks", {}, notes=["0 of 2 images are classified right"])
    report.write_page(tmp_path / "attacks", results)
    text = Page(tmp_path / "attacks" / "index.html").text
    assert "attacks: nothing was measured. 0 of 2 images are classified right" in text
    assert "How attacks was made" in text


def test_a_figure_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_picture(tmp_path / "cut.png", 400)
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.png is damaged .*; delete it, and the page is made without"):
        report.picture("", tmp_path / "cut.png")
    write_picture(tmp_path / "large.png", 400)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"large.png is damaged .*exceeds limit"):
        report.picture("", tmp_path / "large.png")


def test_a_run_has_a_page_of_its_own(tmp_path):
    import lightning

    results = write_run(tmp_path, "gan", {"a/recall": metric(0.25), "judge_fid": metric(1.5)})
    write_picture(tmp_path / "gan" / "figures" / "my_samples.png", 30)
    write_picture(tmp_path / "gan" / "figures" / "odd[1].png", 30)
    dry = lightning.Trainer(fast_dev_run=1, accelerator="cpu", logger=False)
    report.write_run_page(tmp_path / "gan", results, dry)
    assert not (tmp_path / "gan" / "index.html").exists()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    report.write_run_page(tmp_path / "gan", results, trainer)
    page = Page(tmp_path / "gan" / "index.html")
    shown = {cell["data-metric"]: text for cell, text in page.cells if "data-metric" in cell}
    assert shown == {"a/recall": "0.250", "judge_fid": "1.500"}
    assert [image["alt"] for image in page.images] == ["my samples", "odd[1]"]


def test_questions_ask_for_experiments_that_there_are():
    from lab import EXPERIMENTS

    asked = [question for chapter in CHAPTERS for question in chapter.questions]
    assert len({question.title for question in asked}) == len(asked)
    for question in [*asked, SUMMARY]:
        assert question.rows, question.title
        assert question.columns, question.title
        assert question is SUMMARY or question.figures, question.title
        for place in (*question.rows.values(), *question.figures.values()):
            assert questions.run_of(place) in EXPERIMENTS, place
        assert set(question.published) <= set(question.rows), question.title


def test_questions_ask_for_metrics_that_runs_have():
    """Of the results in the repository; what is not there is known."""
    root = ROOT / "results"
    asked = [question for chapter in CHAPTERS for question in chapter.questions]
    names = [questions.run_of(place) for question in asked for place in question.rows.values()]
    runs = report.read_runs(root, names, "{}.json")
    assert set(names) - runs.keys() == set()
    absent = set()
    for question in asked:
        table = questions.answer(question, runs)
        found = {row[0].text for row in table.rows}
        absent |= {place for label, place in question.rows.items() if label not in found}
        assert not found or question.columns.keys() - {*table.header} <= {"fools mobilenet_v2"}, (
            question.title
        )
    # The demo's networks, and those of a machine with a network.
    elsewhere = ("svm_layers:squeezenet1_1/", "svm_networks:squeezenet1_1/", "svm_networks:mobilenet_v2/")
    elsewhere += ("saliency:mobilenet_v2/",)
    assert {place for place in absent if not place.startswith(elsewhere)} == {
        "svm_layers:vgg16/pool5/accuracy_from_16_components",
        "adversarial:matrix/fool/mobilenet_v2",
        "class_practical:mobilenet_v2",
        "class:mobilenet_v2",
        "dann:no-reversal",
    }

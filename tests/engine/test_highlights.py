"""The first screen of the lab's page: pictures, and sentences made from numbers."""

import re

import pytest
from conftest import ROOT
from lab import EXPERIMENTS
from lab_highlights import HIGHLIGHTS, INTRO
from lab_questions import CHAPTERS
from run_folders import metric, write_picture, write_run
from test_report import Page

from rdfia.engine import questions, report
from rdfia.engine.highlights import Highlight, pictures_of, sentence
from rdfia.engine.runs import read_results

SHARE = metric(0.9873) | {"of": 158, "interval": [0.955, 0.9965]}


def test_numbers_say_how_sure_they_are():
    runs = {
        "attack": {"seeds": [0], "metrics": {"success": SHARE, "psnr": metric(48.68)}},
        "cgan": {"seeds": [0, 1], "metrics": {"accuracy": metric(0.25, 0.75), "lost": metric(None)}},
    }
    places = {"a": "attack:success", "b": "attack:psnr", "c": "cgan:accuracy"}
    one = Highlight("", "", "{a}, {b:.0f} dB, {c}, {b}", places)
    expected = "98.7% (95 % interval 95.5% to 99.7%, of 158), 49 dB, 50.0% (± 50.0% over 2 seeds), "
    assert sentence(one, runs) == expected + "4868.0% (one training)"
    for absent in ("cgan:lost", "cgan:unknown", "gan:accuracy"):
        assert sentence(Highlight("", "", "{a}", {"a": absent}), runs) is None


def test_of_each_technique_the_first_that_was_run_is_shown(tmp_path):
    runs = {"gan": write_run(tmp_path, "gan", {"share": metric(0.5)})}
    write_picture(tmp_path / "gan" / "figures" / "samples.png")
    number = {"share": "gan:share"}
    absent = Highlight("Other", "gan/samples", "{share}", {"share": "dann:share"})
    no_picture = Highlight("Other", "gan/lost", "{share}", number)
    here = Highlight("Generation", "gan/samples", "{share} of it.", number)
    shown = pictures_of([[absent, no_picture], [absent, here, here]], runs, tmp_path)
    assert [one.caption for one in shown] == ["Generation: 50.0% (one training) of it."]
    path = tmp_path / "page.html"
    summary = questions.Question("", rows={"share": "gan:share"}, columns={"": ""})
    report.write_report(
        path, "A lab", [], runs, runs_folder=tmp_path, summary=summary, intro=INTRO, highlights=shown
    )
    page, source = Page(path), path.read_text()
    assert INTRO in " ".join(page.text.split())
    assert [image["alt"] for image in page.images] == [shown[0].caption]
    # The table of main numbers is folded beneath.
    assert "<details><summary>All main numbers" in source
    assert source.index(shown[0].caption) < source.index("All main numbers")


@pytest.mark.parametrize("choices", HIGHLIGHTS)
def test_what_the_lab_shows_is_what_its_experiments_measure(choices):
    for one in choices:
        fields = set(re.findall(r"{(\w+)[:}]", one.sentence))
        assert fields == one.numbers.keys()
        assert questions.run_of(one.figure) in EXPERIMENTS
    runs = {
        name: read_results(path)
        for name in EXPERIMENTS
        for path in [ROOT / "results" / f"{name}.json"]
        if path.exists()
    }
    assert sentence(choices[0], runs)


def test_no_sentence_of_the_page_has_a_number_typed_by_hand():
    sentences = [INTRO, *(one.sentence for of_technique in HIGHLIGHTS for one in of_technique)]
    sentences += [chapter.note for chapter in CHAPTERS]
    sentences += [question.note for chapter in CHAPTERS for question in chapter.questions]
    found = [number for text in sentences for number in re.findall(r"(?<![\w.:])\d+\.\d+|\d+ %", text)]
    # Chance of 15 scenes and of ten digits, and of the scenes' largest classes; where a judge is confident.
    assert sorted(found) == ["0.04", "0.10", "0.9", "10 %", "10 %", "6.7"]


def test_a_share_of_test_images_has_their_interval_and_a_caption_is_sentences():
    runs = {"svm": {"metrics": {"x/accuracy": metric(0.987)}, "seeds": [0], "data": {"test": 1000}}}
    one = Highlight("", "svm/a", "{a}.", {"a": "svm:x/accuracy"})
    assert sentence(one, runs) == "98.7% (95 % interval 97.8% to 99.2%, of 1,000 test images)."
    assert report.joined("One sentence.", "another") == "One sentence. Another"
    assert report.joined("a caption", "what there is to see") == "a caption: what there is to see"

"""A question is answered in a sentence of its numbers, which says where the order may be chance."""

import sys
from pathlib import Path

import pytest

from rdfia.engine.answers import in_words
from rdfia.engine.questions import Question, answer
from rdfia.engine.report import read_runs

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from lab_questions import CHAPTERS

RESULTS = Path(__file__).parents[2] / "results"


LESS = {"less": True}


def run(metrics, seeds=(0,), **data):
    return {"metrics": metrics, "seeds": list(seeds), "data": data}


def metric(*values, std=None, **more):
    return {"mean": sum(values) / len(values), "std": std, "values": list(values), **more}


def words(metrics, columns, *, seeds=(0,), asked=None, **data):
    runs = {"run": run(metrics, seeds, **data)}
    rows = {name: f"run:{name}" for name in dict.fromkeys(key.split("/")[0] for key in metrics)}
    question = Question("?", rows, columns, **asked or {})
    return in_words(answer(question, runs), runs, question)


def test_best_and_worst_with_what_is_known_of_them():
    found = words({"a/accuracy": metric(0.9), "b/accuracy": metric(0.5)}, {"accuracy": "accuracy"}, test=100)
    assert found == (
        "Accuracy: highest for a, 0.9000 (95 % interval 0.826 to 0.945, of 100 test images); "
        "lowest for b, 0.5000 (95 % interval 0.404 to 0.596, of 100 test images)."
    )
    fids = {
        "a/fid": metric(3.0, 5.0, std=1.0),
        "b/fid": metric(9.0, 11.1, std=0.5),  # with the same seed each time 6 more, or 6.1
        "c/fid": metric(20, 20, std=0),
    }
    assert words(fids, {"FID": "fid"}, seeds=(0, 1), asked=LESS) == (
        "FID: lowest for a, 4.000 ± 1.000 (over 2 seeds); highest for c, 20.000 ± 0.000 (over 2 seeds)."
    )


def test_an_order_that_may_be_chance_is_said_to_be():
    shares = {"a/accuracy": metric(0.52), "b/accuracy": metric(0.50)}
    assert "to b (0.5000) may be chance" in words(shares, {"accuracy": "accuracy"}, test=100)
    assert "chance" not in words(shares, {"accuracy": "accuracy"}, test=100_000)
    seeds = {"a/fid": metric(3.0, 5.0, std=1.0), "b/fid": metric(4.5, 4.5, std=0.1)}
    assert "to b (4.500 ± 0.100) may be chance" in words(seeds, {"FID": "fid"}, seeds=(0, 1), asked=LESS)
    assert "the 95 % interval of the difference holds 0" in words(
        seeds, {"FID": "fid"}, seeds=(0, 1), asked=LESS
    )
    fewer = {"a/accuracy_from_5_per_class": metric(0.52), "b/accuracy_from_5_per_class": metric(0.50)}
    assert "may be chance" in words(fewer, {"accuracy": "accuracy_from_5_per_class"}, test=100)


def test_a_seed_that_gave_no_number_is_not_counted():
    lost = {"a/fid": {"mean": 1.1, "std": 0.14, "values": [1.0, None, 1.2]}}
    assert words(lost, {"FID": "fid"}, seeds=(0, 1, 2)) == "A, FID: 1.100 ± 0.140 (over 2 of 3 seeds)."


def test_ties_one_row_and_no_number():
    same = {f"{name}/s": metric(1.0) for name in "abcdef"} | {"g/s": metric(0.5)}
    assert words(same, {"success": "s"}) == "Success: highest for a and 5 others, 1.000; lowest for g, 0.500."
    assert words({"a/s": metric(1.0), "b/s": metric(1.0)}, {"s": "s"}) == "S: 1.000 in all 2 rows."
    assert words({"a/s": metric(0.25)}, {"success": "s"}) == "A, success: 0.250."
    assert words({"vgg16/s": metric(0.25)}, {"success": "s"}) == "vgg16, success: 0.250."
    assert words({"a/s": {"mean": None, "std": None, "values": [None]}}, {"success": "s"}) == ""
    lost = Question("?", {"a": "lost"}, {"s": "s"})
    assert in_words(answer(lost, {}), {}, lost) == ""


def test_another_column_may_answer():
    both = {"a/s": metric(1.0), "a/l2": metric(3.0), "b/s": metric(1.0), "b/l2": metric(2.0)}
    found = words(both, {"success": "s", "L2": "l2"}, asked=LESS | {"answered_by": "L2"})
    assert found == "L2: lowest for b, 2; highest for a, 3."


def test_rows_may_be_left_out_or_all_be_named():
    counts = {"all/n": metric(5.0), "few/n": metric(2.0), "more/n": metric(3.0)}
    assert words(counts, {"parts": "n"}, asked={"each": True}) == "Parts: all 5, few 2, more 3."
    found = words(counts, {"parts": "n"}, asked={"apart_from": ["all"]})
    assert found == "Parts: highest for more, 3; lowest for few, 2."


@pytest.mark.parametrize(
    "question", [one for chapter in CHAPTERS for one in chapter.questions], ids=lambda one: one.title
)
def test_every_recorded_question_has_an_answer(question):
    names = [path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("benchmark")]
    runs = read_runs(RESULTS, [name for name in names if name != "gpu_check"], "{}.json")
    table = answer(question, runs)
    assert not question.answered_by or question.answered_by in table.header
    assert set(question.apart_from) <= set(question.rows)
    assert in_words(table, runs, question).endswith(".")

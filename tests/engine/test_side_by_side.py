"""Runs side by side: what is one setting, how far settings are apart, the page."""

import csv
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from run_folders import metric, write_picture, write_run
from scipy import stats
from test_report import Page

from rdfia.engine import side_by_side
from rdfia.engine.differences import Difference, difference, number
from rdfia.engine.settings import find_runs, group, label_of
from rdfia.engine.side_by_side import write_comparison

ALIKE = {
    "batch_size": 64,
    "r1_weight": None,
    "interpolate": [],
    "output_dir": "runs",
    "data": {"sha256": "1"},
}


def write(folder, name, seed=0, *, r1=0.5, fid=10.0, losses=(3.0, 2.0, 1.0), **metrics):
    """Write a run with flags, a history and a figure."""
    found = {"fid": metric(fid), "n_real": metric(100.0)} | {one: metric(of) for one, of in metrics.items()}
    write_run(folder, name, found, seeds=[seed])
    flags = ALIKE | {"name": name, "seed": seed, "module": {"seed": seed, "r1_weight": r1, "classes": 3}}
    (folder / name / "args.json").write_text(json.dumps(flags))
    with (folder / name / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "epoch", "train/loss", "train/batch", "val/fid"])
        rows.writerows([step, 0, loss, step, fid if step == 2 else ""] for step, loss in enumerate(losses))
    write_picture(folder / name / "figures" / "samples.png", 40)
    write_picture(folder / name / "figures" / "samples_epoch_001.png", 40)


@pytest.fixture
def two(tmp_path):
    """Two settings of three seeds each."""
    for seed, (a, b) in enumerate([(10.0, 9.0), (12.0, 10.0), (15.0, 11.0)]):
        write(tmp_path, f"plain-{seed}", seed, fid=a)
        write(tmp_path, f"mild_seed_{seed}", seed, r1=0.1, fid=b)
    return tmp_path


def test_what_differs_in_the_seed_alone_is_one_setting(two):
    settings = group(find_runs([str(two / "plain-*"), str(two / "mild*")]))
    assert [one.label for one in settings] == ["plain", "mild"]
    assert [len(one.folders) for one in settings] == [3, 3]
    assert settings[1].values("fid") == {(0,): 9.0, (1,): 10.0, (2,): 11.0}
    # The value that the module took counts, and neither names nor folders.
    assert settings[0].flags == {"batch_size": 64, "r1_weight": 0.5, "interpolate": [], "module: classes": 3}


def test_a_table_stands_for_its_trainings(tmp_path):
    write_run(tmp_path, "table", {"b/fid": metric(1.0), "a/fid": metric(1.0)})
    for row, r1 in (("a", 0.5), ("b", 0.1)):
        write(tmp_path / "table", f"{row}_seed_0", r1=r1)
    # In the order of the table, whose first row is what others are compared with.
    assert [one.label for one in group(find_runs([str(tmp_path / "table")]))] == ["b", "a"]


def test_a_table_whose_rows_wrote_no_results_stands_for_them_too(tmp_path, capsys):
    numbers = {"none/accuracy": (0.5, 0.6), "none, again/accuracy": (0.5, 0.7), "dann/accuracy": (0.75, 0.8)}
    found = {name: metric(*values) for name, values in numbers.items()}
    write_run(tmp_path, "dann", found | {"share": metric(1.0, 1.0)}, seeds=[0, 1])
    for row in ("none", "dann"):
        for seed in (0, 1):
            (tmp_path / "dann" / f"{row}_seed_{seed}").mkdir()
            flags = {"method": row, "seed": seed}
            (tmp_path / "dann" / f"{row}_seed_{seed}" / "args.json").write_text(json.dumps(flags))
    settings = group(find_runs([str(tmp_path / "dann")]))
    assert [one.label for one in settings] == ["none", "dann"]
    assert settings[1].values("accuracy") == {(0,): 0.75, (1,): 0.8}
    assert difference(settings[1].values("accuracy"), settings[0].values("accuracy")).paired
    assert "left out, as they are no trainings: none, again" in capsys.readouterr().out


def test_what_is_not_finished_is_said(tmp_path, capsys):
    write(tmp_path, "a-0", 0)
    (tmp_path / "a-1").mkdir()
    assert [path.name for path in find_runs([str(tmp_path / "a-*")])] == ["a-0"]
    assert f"left out, as they have no results.json: {tmp_path / 'a-1'}" in capsys.readouterr().out
    write(tmp_path / "table", "x_seed_0", 0)
    (tmp_path / "table" / "y_seed_0").mkdir()
    (tmp_path / "table" / "y_seed_0" / "args.json").write_text("{}")
    write(tmp_path, "odd[1]", 3)
    found = find_runs([str(tmp_path / "table"), str(tmp_path / "odd[1]")])
    assert [path.name for path in found] == ["x_seed_0", "odd[1]"]
    lacking = tmp_path / "table" / "y_seed_0"
    assert f"left out, as they have no results.json: {lacking}" in capsys.readouterr().out


def test_labels():
    assert label_of(["gan"]) == "gan"
    assert label_of(["sweep-0", "sweep-1"]) == "sweep"
    assert label_of(["dann_seed_0", "dann_seed_11"]) == "dann"
    assert label_of(["one", "two"]) == "one"
    assert label_of(["gan_seed_10", "gan_seed_11"]) == "gan"
    assert label_of(["r-1", "r-10"]) == "r"
    assert label_of(["ngf64", "ngf64b"]) == "ngf64"


def test_two_settings_of_one_sweep_have_labels_of_their_own(tmp_path):
    for place, (seed, r1) in enumerate([(0, 0.5), (1, 0.5), (0, 0.1), (1, 0.1)]):
        write(tmp_path, f"sweep-{place}", seed, r1=r1)
    settings = group(find_runs([str(tmp_path / "sweep-*")]))
    assert [one.label for one in settings] == [
        f"{tmp_path.name}/sweep, r1-weight 0.5",
        f"{tmp_path.name}/sweep, r1-weight 0.1",
    ]
    panels, _ = side_by_side.curves_of(settings)
    assert len(panels["train/loss"]) == 2


def test_draws_of_a_training_are_no_seeds(tmp_path):
    for seed in (0, 1):
        write_run(
            tmp_path, f"draws-{seed}", {"accuracy": metric(seed + 0.1, seed + 0.2, seed + 0.3)}, seeds=[seed]
        )
    (both,) = group(find_runs([str(tmp_path / "draws-*")]))
    assert both.values("accuracy") == {(0,): pytest.approx(0.2), (1,): pytest.approx(1.2)}
    (one,) = group(find_runs([str(tmp_path / "draws-1")]))
    assert one.values("accuracy") == {(1, 0): 1.1, (1, 1): 1.2, (1, 2): 1.3}


def test_small_numbers_keep_their_digits():
    assert [number(value) for value in (3e-6, 0.0123, 0.0, 12.0)] == [
        "0.0000030",
        "0.0123",
        "0.0000",
        "12.00",
    ]


def test_differences_are_those_of_students_paired_test():
    ours, base = {(0,): 1.0, (1,): 2.0, (2,): 4.0, (7,): 9.0}, {(0,): 0.5, (1,): 1.0, (2,): 2.0, (3,): 5.0}
    found = difference(ours, base)
    expected = stats.ttest_rel([1.0, 2.0, 4.0], [0.5, 1.0, 2.0]).confidence_interval(0.95)
    assert (found.mean, found.count, found.paired) == (pytest.approx(3.5 / 3), 3, True)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.low == pytest.approx(3.5 / 3 - 4.30265 * 0.763763 / 3**0.5, rel=1e-4)
    assert difference({(0,): 2.0}, {(0,): 0.5}) == Difference(1.5, None, None, 1, paired=True)
    assert difference({}, base) is None


def test_without_a_shared_seed_the_means_are_compared():
    ours, base = {(10,): 1.0, (11,): 2.0, (12,): 4.0}, {(0,): 0.5, (1,): 1.0}
    found = difference(ours, base)
    expected = stats.ttest_ind([1.0, 2.0, 4.0], [0.5, 1.0], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert str(found).endswith("unpaired, n = 2")
    assert difference({(9,): 1.0}, base) == Difference(0.25, None, None, 1, paired=False)


def test_the_page_says_what_differs_and_how_far_they_are_apart(two):
    write_comparison(two / "page.html", [str(two / "plain-*"), str(two / "mild*")])
    page = Page(two / "page.html")
    text = " ".join(page.text.split())
    assert "--r1-weight" in text
    assert "--batch-size" not in text
    cells = [value for _, value in page.cells]
    assert cells[:2] == ["0.5", "0.1"]
    expected = stats.ttest_rel([9.0, 10.0, 11.0], [10.0, 12.0, 15.0]).confidence_interval(0.95)
    shown = f"-2.3333 [{expected.low:+.4f}, {expected.high:+.4f}], n = 3"
    assert cells[2:] == ["12.33 ± 2.52, n = 3", "10.00 ± 1.00, n = 3", shown]
    assert "The same everywhere: n real 100.00" in text
    # Curves of what has more than one value, and the pictures of the last epoch beside each other.
    alts = [image["alt"] for image in page.images]
    assert alts == [
        "How did they learn? curves of train/loss: Train/loss at batches 2: 1, all 2.",
        "samples plain",
        "samples mild",
    ]
    assert "How plain-2 was made" in text


def test_curves_are_means_of_the_steps_that_all_have(tmp_path):
    write(tmp_path, "a-0", 0, losses=(3.0, 2.0, 1.0))
    write(tmp_path, "a-1", 1, losses=(5.0, 4.0))
    panels, left = side_by_side.curves_of(group(find_runs([str(tmp_path / "a-*")])))
    assert panels == {"train/loss": {"a": ([0.0, 1.0], [4.0, 3.0])}}
    assert left == []


def test_curves_are_those_that_are_asked_for_and_what_is_left_out_is_named(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write(tmp_path, name, r1=0.1 if name == "a" else 0.2)
        with (tmp_path / name / "metrics.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "epoch", "train/lr", "val/class_0", "val/fid"])
            rows.writerows([step, 0, 0.1 / (step + 1), step, 9.0 - step] for step in range(3))
    settings = group(find_runs([str(tmp_path / "[ab]")]))
    panels = side_by_side.curves_of(settings)[0]
    assert list(panels) == ["val/fid", "val/class_0", "train/lr"]  # fid is among the results
    assert list(side_by_side.curves_of(settings, ["class 0"])[0]) == ["val/class_0"]
    monkeypatch.setattr(side_by_side, "PANELS", 1)
    write_comparison(tmp_path / "page.html", [str(tmp_path / "[ab]")])
    assert "In metrics.csv alone: val/class_0, train/lr." in Page(tmp_path / "page.html").text


def test_what_is_left_out_stands_on_the_page_and_rows_have_their_own_time(tmp_path):
    found = {"dann/fid": metric(1.0), "dann/seconds": metric(7.0), "adabn/fid": metric(2.0)}
    write_run(tmp_path, "table", found, seeds=[0])
    (tmp_path / "table" / "dann_seed_0").mkdir()
    write(tmp_path, "plain-0")
    (tmp_path / "plain-1").mkdir()
    names = [str(tmp_path / one) for one in ("table", "plain-*")]
    write_comparison(tmp_path / "page.html", names, ["fid"])
    text = Page(tmp_path / "page.html").text
    assert "left out, as they are no trainings: adabn" in text
    assert f"left out, as they have no results.json: {tmp_path / 'plain-1'}" in text
    assert "How table/dann_seed_0 was made" in text
    assert "seeds 0; 7 s." in " ".join(text.split())


def test_a_run_of_many_seeds_and_one_that_diverged(tmp_path):
    write_run(tmp_path, "svm", {"accuracy": metric(0.5, 0.7), "cut": metric(None)}, seeds=[3, 4])
    (setting,) = group(find_runs([str(tmp_path / "svm")]))
    assert setting.values("accuracy") == {(3,): 0.5, (4,): 0.7}
    table = write_comparison(tmp_path / "page.html", [str(tmp_path / "svm")]).numbers
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["accuracy", "0.6000 ± 0.1414, n = 2"],
        ["cut", "nan"],
    ]
    assert "In no flag." in (tmp_path / "page.html").read_text()


def test_values_that_are_no_numbers_are_counted(tmp_path):
    write_run(tmp_path, "a", {"fid": metric(1.0, 2.0)}, seeds=[0, 1], status="1 of 2 diverged")
    write_run(
        tmp_path,
        "b",
        {"fid": {"mean": 1.0, "std": None, "values": [1.0, None]}},
        seeds=[0, 1],
        status="1 of 2 diverged",
    )
    (tmp_path / "b" / "args.json").write_text(json.dumps({"lr": 1}))
    table = write_comparison(tmp_path / "page.html", [str(tmp_path / "a"), str(tmp_path / "b")]).numbers
    assert [cell.text for cell in table.rows[0]] == [
        "fid",
        "1.5000 ± 0.7071, n = 2",
        "1.0000 (1 of 2 gave no number)",
        "+0.0000",
    ]
    assert "b: 1 of 2 diverged." in Page(tmp_path / "page.html").text


def test_draws_of_one_training_have_no_interval():
    ours, base = {(0, 0): 0.5, (0, 1): 0.6}, {(0, 0): 0.3, (0, 1): 0.5}
    assert difference(ours, base) == Difference(pytest.approx(0.15), None, None, 2, paired=True)


def test_names_are_shown_as_they_are(tmp_path):
    write(tmp_path, "<b>bold&")
    write(tmp_path, "other", r1=0.2)
    write_comparison(tmp_path / "page.html", [str(tmp_path / "*")])
    assert "<b>" not in (tmp_path / "page.html").read_text()
    assert "<b>bold&" in Page(tmp_path / "page.html").text


def test_what_cannot_be_compared_is_said(two):
    def refused(match, *given, **more):
        with pytest.raises(ValueError, match=match):
            write_comparison(two / "page.html", [str(two / one) for one in given], **more)
        assert not (two / "page.html").exists()

    refused(r"absent is no folder; name finished runs, such as runs/gan or 'runs/sweep-\*'", "absent")
    (two / "begun").mkdir()
    refused("begun has no results.json", "plain-0", "begun")
    refused("no run has a metric accuracy; there are fid, n_real", "plain-0", metrics=["accuracy"])
    refused("no run has a metric zzz; there", "plain-0", metrics=["fid", "zzz"])
    write(two, "again", 0, fid=1.0)
    refused(r"again repeats a training of .*plain-0 \(seed 0\); leave one out", "plain-0", "again")
    write(two, "later", 1, fid=1.0)
    refused(r"later repeats a training of .*plain-1 \(seed 1\)", "plain-0", "plain-1", "later")
    (two / "again" / "args.json").write_text("[1]")
    refused("args.json is damaged", "again")
    (two / "again" / "results.json").write_text("{")
    refused("results.json is damaged", "again")
    # A folder and a pattern that name the same run name it once.
    assert len(find_runs([str(two / "plain-0"), str(two / "plain-*")])) == 3


def test_the_script_prints_the_table_and_ends_in_a_line(two, call_script):
    done = call_script("report.py", "plain-0", "mild_seed_0", "--out", "new/page.html", cwd=two)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["plain-0", "mild", "mild", "less", "plain-0"]
    assert lines[1].split() == ["fid", "10.00", "9.0000", "-1.0000"]
    assert lines[-1] == "open new/page.html"
    assert (two / "new" / "page.html").exists()
    for words, error in (
        ((), "name the runs"),
        (("none",), "none is no folder"),
        (("plain-0", "--out", "."), "is a folder"),
    ):
        done = call_script("report.py", *words, cwd=two)
        assert done.returncode == 2
        assert error in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_it_is_shown_in_wandb_too(two):
    """In a process of its own: W&B leaves helpers behind."""
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(two / "plain-*"), str(two / "mild*")]
    command += ["--out", str(two / "page.html"), "--wandb"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"WANDB_MODE": "offline"}, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    (kept,) = (two / "page.wandb").rglob("run-*.wandb")
    files = {path.suffix: path for path in kept.parent.rglob("*") if path.is_file()}
    assert "side" in files[".html"].read_text().lower()
    tables = [json.loads(path.read_text()) for path in kept.parent.rglob("*.table.json")]
    numbers = next(table for table in tables if table["data"][0][0] == "fid")
    assert numbers["columns"][1:3] == ["plain", "mild"]
    assert any({"step", "lineKey", "lineVal"} <= set(table["columns"]) for table in tables)  # a curve

"""The experiment, in process."""

import dataclasses
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import FASTEST, write_mnist, write_mnist_m, write_usps

from rdfia.adaptation import experiment_pair, experiment_training
from rdfia.adaptation.config import ABLATION, LOW_IS_BEST, SELECTIONS, Args
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.experiment import run
from rdfia.engine.candidates import KeepsCandidates
from rdfia.engine.errors import Diverged
from rdfia.engine.runs import read_metrics

DEFAULTS = inspect.signature(DANNModule).parameters


def small(tmp_path: Path, **changes) -> Args:
    settings = {"data_dir": tmp_path / "data", "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    settings |= {"network": "paper", "domain_width": 10, "max_epochs": 2, "batch_size": 40}
    return Args(**{**settings, **changes})


@pytest.fixture
def digits(tmp_path):
    write_mnist(tmp_path / "data")
    write_mnist_m(tmp_path / "data", train=480)


def test_a_dry_run_touches_everything_and_writes_nothing(tmp_path, digits, capsys):
    results = run(small(tmp_path, fast_dev_run=True, pseudo_label_rounds=1))
    assert {name.split("/")[0] for name in results["metrics"]} == {"source-only", "dann", "pseudo-labels"}
    assert "a dry run, nothing kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_leaves_the_table_and_figures_and_goes_on(tmp_path, digits, capsys):
    everything = ("source-only", "no-reversal")
    asked = small(tmp_path, compare=everything, pseudo_label_rounds=1, pseudo_label_epochs=1, threshold=0.0)
    results = run(asked)
    folder = tmp_path / "runs" / "dann"
    assert json.loads((folder / "results.json").read_text()) == results
    metrics = results["metrics"]
    rows = {*everything, "dann", "pseudo-labels"}
    assert {name.split("/")[0] for name in metrics} == rows
    for row in rows:
        for selection in (*SELECTIONS, "all_by_rank"):
            assert 0 <= metrics[f"{row}/target_accuracy_by_{selection}"]["mean"] <= 1
        # no domain loss where nothing is trained to tell the domains
        assert (f"{row}/target_domain_loss" in metrics) == (row in ("dann", "no-reversal"))
    assert metrics["pseudo-labels/round_1_coverage"]["mean"] > 0
    assert results["selection"] == "last epoch"
    assert results["data"]["target"]["name"] == "MNIST-M, common release"
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {"domains", "curves", "tsne", "changed", "gained_by_class", "target_accuracy"} | {
        f"{figure}_{row}" for row in rows for figure in ("confusion", "predicted")
    }
    history = read_metrics(folder / "dann_seed_0")
    assert len(history["train/lambda"][1]) == 2 * (440 // 40)
    steps = len(history["train/lambda"][1])
    expected = [PAPER["lr"] * (1 + 10 * step / steps) ** -0.75 for step in range(steps)]
    assert history["train/lr"][1] == pytest.approx(expected)
    assert len(history["val/target_entropy"][1]) == 2
    out = capsys.readouterr().out
    assert "target accuracy" in out
    assert "no-reversal" in out


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which take longest."""
    monkeypatch.setattr(experiment_pair, "draw", lambda *args: None)


@pytest.mark.slow
def test_another_seed_is_added_and_what_is_done_only_scored_again(tmp_path, digits, undrawn):
    once = run(small(tmp_path, max_epochs=1, compare=()))["metrics"]
    twice = run(small(tmp_path, max_epochs=1, compare=(), seeds=(0, 1)))["metrics"]
    for name, value in twice.items():
        assert len(value["values"]) == 2
        assert value["values"][0] == pytest.approx(once[name]["mean"], rel=1e-5), name
    assert twice["dann/source_loss"]["std"] > 0


@pytest.mark.slow
def test_the_ablation_makes_one_change_at_a_time(tmp_path, digits, undrawn, monkeypatch):
    some = {
        name: ABLATION[name] for name in ("both, as published", "Adam, BatchNorm, separate passes", "float32")
    }
    monkeypatch.setattr(experiment_pair, "ABLATION", some)
    asked = small(tmp_path, max_epochs=1, compare=(), ablation=True, precision="bf16-mixed")
    metrics = run(asked)["metrics"]
    assert {name.split("/")[0] for name in metrics} == {*some, "dann"}
    folder = tmp_path / "runs" / "dann"
    base = json.loads((folder / "dann_seed_0" / "args.json").read_text())
    for name, changes in some.items():
        place = re.sub(r"[^A-Za-z0-9.]+", "-", name)
        flags = json.loads((folder / f"{place}_seed_0" / "args.json").read_text())
        own = flags.keys() - {"name", "module"}
        assert {flag: flags[flag] for flag in own if flags[flag] != base[flag]} == changes
        asked_of_module = {flag: value for flag, value in changes.items() if flag != "precision"}
        settings, others = flags["module"], base["module"]
        assert {key: settings[key] for key in settings if settings[key] != others[key]} == asked_of_module
    published = torch.load(folder / "both-as-published_seed_0/checkpoints/last.ckpt", weights_only=True)
    assert published["hyper_parameters"]["dropout"] == 0
    assert published["hyper_parameters"]["scaling"] == "symmetric"


def test_each_change_differs_from_the_recipe():
    for changes in ABLATION.values():
        for flag, value in changes.items():
            if flag != "precision":  # left out where it is what was asked for
                assert PAPER.get(flag, DEFAULTS[flag].default) != value, flag


def test_the_row_follows_from_the_flags(tmp_path):
    rows = {
        "dann": {},
        "no-reversal": {"reversal": False},
        "source-only": {"adapt": False},
        "target-trained": {"adapt": False, "labelled": "target"},
    }
    for row, flags in rows.items():
        assert small(tmp_path, **flags).row() == row
    with pytest.raises(ValueError, match="add --no-adapt"):
        small(tmp_path, labelled="target")


@pytest.mark.parametrize("pair", [("mnist-m", "mnist"), ("mnist", "usps")])
def test_other_pairs(tmp_path, digits, undrawn, pair):
    write_usps(tmp_path / "data" / "USPS")
    results = run(small(tmp_path, source=pair[0], target=pair[1], max_epochs=1, compare=()))
    assert set(results["data"]) == {"source", "target"}
    names = {"mnist": "MNIST", "mnist-m": "MNIST-M, common release", "usps": "USPS"}
    assert [results["data"][name]["name"] for name in ("source", "target")] == [names[name] for name in pair]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"target": "mnist"}, "source and target are two data sets, got mnist twice"),
        ({"target": "usps"}, r"prepare_data.py usps"),
        ({"batch_size": 400}, "fewer than a batch of 400; take --batch-size 110 or less"),
        ({"network": "modern", "ablation": True}, "add --network paper"),
        ({"threshold": 90.0}, "--threshold lies between 0 and 1, got 90"),
        ({"seeds": (0, -1)}, "--seeds are at least 0, got -1"),
        ({"domain_width": 0}, "--domain-width is at least 1, got 0"),
        ({"labelled": "target", "adapt": False, "pseudo_label_rounds": 1}, "proves nothing"),
        ({"pseudo_label_rounds": -1}, "--pseudo-label-rounds is at least 0"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, digits, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(small(tmp_path, **flags))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_too_few_pseudo_labels_are_named_and_keep_what_is_done(tmp_path, digits, undrawn):
    short = small(tmp_path, max_epochs=1, compare=(), pseudo_label_rounds=1, pseudo_label_epochs=1)
    with pytest.raises(ValueError, match=r"no prediction reaches 1.0, .* lower --threshold"):
        run(dataclasses.replace(short, threshold=1.0))
    # what the error says mends it, and nothing is trained again
    last = tmp_path / "runs" / "dann" / "dann_seed_0" / "checkpoints" / "last.ckpt"
    written = last.stat().st_mtime_ns
    lower = dataclasses.replace(short, threshold=0.0)
    metrics = run(lower)["metrics"]
    assert metrics["pseudo-labels/round_1_coverage"]["mean"] > 0
    assert last.stat().st_mtime_ns == written
    more = run(dataclasses.replace(lower, pseudo_label_rounds=2))["metrics"]
    assert "pseudo-labels/round_2_coverage" in more
    with pytest.raises(ValueError, match=r"has --threshold 0.0, this command says 0.05"):
        run(dataclasses.replace(lower, threshold=0.05))


def test_a_row_that_diverges_says_so_and_the_others_are_trained(
    tmp_path, digits, undrawn, monkeypatch, capsys
):
    train, broken = experiment_training.train, {"source-only"}

    def diverging(part, *given, **more):
        if part.row() in broken:
            raise Diverged("train/class_loss is nan")
        return train(part, *given, **more)

    monkeypatch.setattr(experiment_training, "train", diverging)
    results = run(small(tmp_path, max_epochs=1))
    assert results["metrics"]["source-only/target_accuracy"]["values"] == [None]
    assert results["metrics"]["dann/target_accuracy"]["mean"] > 0
    assert "source-only, seed 0: diverged" in results["notes"]
    # A single bar is left for a number to say.
    assert not (tmp_path / "runs" / "dann" / "figures" / "target_accuracy.png").exists()
    broken.clear()  # what the rest of the lab knows by now is not trained again
    assert run(small(tmp_path, max_epochs=1))["metrics"]["source-only/target_accuracy"]["mean"] > 0
    broken.update(("source-only", "dann"))
    with pytest.raises(Diverged, match="all rows diverged"):
        run(small(tmp_path, max_epochs=1, name="other"))


@pytest.mark.slow
def test_a_table_is_kept_when_its_last_row_or_its_pseudo_labels_diverge(
    tmp_path, digits, monkeypatch, undrawn
):
    train = experiment_training.train

    def diverging(part, *given, **more):
        if part.name == broken:
            raise Diverged("train/class_loss is nan")
        return train(part, *given, **more)

    monkeypatch.setattr(experiment_training, "train", diverging)
    monkeypatch.setattr(experiment_pair, "ABLATION", {"Adam": {"optimizer": "adam", "lr": 0.001}})
    short = small(tmp_path, max_epochs=1, compare=())
    broken = "dann_seed_0"
    results = run(dataclasses.replace(short, ablation=True, name="ablation"))
    assert results["metrics"]["dann/target_accuracy"]["values"] == [None]
    assert results["metrics"]["Adam/target_accuracy"]["mean"] > 0

    broken = "dann_seed_0_round_1"
    rounds = {"pseudo_label_rounds": 1, "pseudo_label_epochs": 1, "threshold": 0.0, "seeds": (0, 1)}
    results = run(dataclasses.replace(short, **rounds))
    first, second = results["metrics"]["pseudo-labels/target_accuracy"]["values"]
    assert first is None
    assert second > 0
    assert "pseudo-labels, seed 0: diverged" in results["notes"]


@pytest.mark.slow
def test_a_round_does_not_go_on_from_the_student_of_another_teacher(tmp_path, digits, undrawn):
    asked = small(tmp_path, max_epochs=1, compare=(), pseudo_label_rounds=1, threshold=0.0)
    run(asked)
    shutil.rmtree(tmp_path / "runs" / "dann" / "dann_seed_0")
    run(asked)  # the same teacher comes out
    shutil.rmtree(tmp_path / "runs" / "dann" / "dann_seed_0")
    (tmp_path / "runs" / "dann" / "args.json").unlink()
    with pytest.raises(ValueError, match="dann_seed_0_round_1 was trained on"):
        run(dataclasses.replace(asked, lr=0.002))


def test_more_epochs_are_another_run(tmp_path, digits, undrawn):
    asked = small(tmp_path, max_epochs=1, compare=())
    run(asked)
    with pytest.raises(ValueError, match="has --max-epochs 1, this command says 2"):
        run(dataclasses.replace(asked, max_epochs=2))


@pytest.mark.slow
def test_a_run_stopped_in_its_second_row_goes_on_there(tmp_path, digits, undrawn, monkeypatch):
    asked = small(tmp_path, max_epochs=2)
    whole = run(dataclasses.replace(asked, output_dir=tmp_path / "whole"))["metrics"]

    class Killed(Exception):  # noqa: N818
        pass

    step = DANNModule.training_step

    def dies(self, batch, batch_idx):
        if self.adapt and self.trainer.current_epoch == 1:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DANNModule, "training_step", dies)
        with pytest.raises(Killed):
            run(asked)
    resumed = run(asked)["metrics"]
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        if not name.endswith("seconds"):
            assert resumed[name]["values"] == value["values"], name


def test_each_selection_keeps_the_epoch_it_names(tmp_path, digits, undrawn):
    run(small(tmp_path, max_epochs=3, compare=()))
    folder = tmp_path / "runs" / "dann" / "dann_seed_0"
    history = read_metrics(folder)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for name, metric in SELECTIONS.items():
        prefix = "oracle" if name == "oracle" else "candidate"
        known = {name: metric} if name == "oracle" else SELECTIONS
        candidates = KeepsCandidates(folder / "checkpoints", known, low=LOW_IS_BEST, prefix=prefix)
        candidates.load_state_dict(last["callbacks"][candidates.state_key])
        values = [value * (-1 if name in LOW_IS_BEST else 1) for value in history[metric][1]]
        kept = torch.load(candidates.best(name), weights_only=True)
        assert values[kept["epoch"]] == max(values)
        scores = [one["scores"][name] for one in candidates.history]  # a run killed hard goes on with those
        assert scores == pytest.approx(values)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a slow machine beside another test
def test_dann_learns_the_embedded_target(tmp_path):
    settings = {"max_epochs": 3, "batch_size": 64, "accelerator": "cpu", "precision": FASTEST}
    results = run(Args(data_dir="sample", output_dir=tmp_path, pseudo_label_rounds=1, **settings))
    metrics = {name: value["mean"] for name, value in results["metrics"].items()}
    assert metrics["source-only/source_accuracy"] > 0.95
    assert metrics["dann/target_accuracy"] > metrics["source-only/target_accuracy"] + 0.1
    assert metrics["pseudo-labels/target_accuracy"] > metrics["dann/target_accuracy"]
    assert metrics["pseudo-labels/round_1_label_accuracy"] > metrics["dann/target_accuracy"]


@pytest.mark.slow
def test_seeds_of_a_row_are_trained_at_once(tmp_path, digits, undrawn):
    flags = {"seeds": (1, 0), "network": "paper", "dropout": 0.0, "compare": ()}
    alone = run(small(tmp_path, name="alone", **flags))
    table = run(small(tmp_path, name="together", stack=True, **flags))
    # No epoch was validated, so none can be chosen.
    lacking = {name for name in alone["metrics"] if name not in table["metrics"]}
    ways = (*SELECTIONS, "all_by_rank")
    by_epoch = {f"dann/val_{name}" for name in SELECTIONS if name != "oracle"}
    assert lacking == {f"dann/target_accuracy_by_{name}" for name in ways} | by_epoch
    assert any("trained at once" in note for note in table["notes"])
    for name in ("dann/target_loss", "dann/source_accuracy"):
        values = [found["metrics"][name]["values"] for found in (alone, table)]
        assert values[1] == pytest.approx(values[0], rel=0.02, abs=0.02)

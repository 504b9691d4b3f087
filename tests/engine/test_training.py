import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from tiny import Data, Tiny, arguments, rows, train

from rdfia.common.plots import curves, image_grids
from rdfia.engine import args, callbacks, devices, errors, runs, training
from rdfia.engine.errors import Checked, Interrupted


def test_a_run_leaves_what_the_report_reads(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scripts/tiny.py", "--classes", "bee eater"])
    trainer, folder, seconds = train(args, Tiny())
    assert folder == tmp_path / "runs" / "run"
    assert json.loads((folder / "args.json").read_text())["max_epochs"] == 3
    results = runs.write_results(
        folder,
        trainer,
        technique="tiny",
        seeds=[0, 1],
        data={"name": "none"},
        metrics={"score": [1.0, 3.0], "single": [2.0]},
        selection="last epoch",
        wall_seconds=seconds,
        notes=[],
    )
    written = json.loads((folder / "results.json").read_text())
    assert written == results
    assert written["metrics"]["score"] == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert written["metrics"]["single"]["std"] is None
    required = {"name", "technique", "command", "commit", "seeds", "data", "device", "precision"}
    assert required | {"wall_seconds", "metrics", "selection", "notes"} <= written.keys()
    assert written["command"] == "python scripts/tiny.py --classes 'bee eater'"  # as a shell takes it
    history = runs.read_metrics(folder)
    assert len(history["train/loss"][1]) == 15
    assert history["val/score"][1] == [0, 1, 2]


def test_best_is_the_best_and_last_the_last(tmp_path):
    _, folder, _ = train(arguments(tmp_path), Tiny())
    epochs = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"best": 0, "last": 2}
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("signal_at", [2, 5, 7, 15])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, signal_at, number):
    whole = Tiny()
    _, whole_folder, _ = train(arguments(tmp_path, name="whole"), whole)
    args = arguments(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    # also in the last batch of all: a script that trains more than once must not begin the next
    with pytest.raises(Interrupted, match="the same command resumes from there"):
        train(args, Tiny(signal_at=signal_at, number=number))
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = Tiny()
    _, folder, _ = train(args, resumed)
    assert torch.equal(resumed.weight, whole.weight)
    assert rows(folder) == rows(whole_folder)  # one history, no gap, no double


@pytest.mark.parametrize("where", ["validation", "a checkpoint"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_where_nothing_trains_waits_for_the_end_of_that(tmp_path, monkeypatch, number, where):
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # in which SIGUSR1 means something
    monkeypatch.setattr(callbacks, "requeue_job", lambda: None)

    class Told(Tiny):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if where == "validation" and self.current_epoch == batch_idx == 1:
                os.kill(os.getpid(), number)

        def on_save_checkpoint(self, checkpoint):
            if where == "a checkpoint" and self.batches == 10:
                os.kill(os.getpid(), number)

    whole = Tiny()
    _, whole_folder, _ = train(arguments(tmp_path, name="whole"), whole)
    with pytest.raises(Interrupted, match="the same command resumes from there"):
        train(arguments(tmp_path), Told())
    resumed = Tiny()
    _, folder, _ = train(arguments(tmp_path), resumed)
    assert 0 < resumed.batches < 10
    assert torch.equal(resumed.weight, whole.weight)
    assert rows(folder) == rows(whole_folder)


def test_a_finished_run_is_not_trained_again(tmp_path):
    args = arguments(tmp_path)
    _, _, seconds = train(args, Tiny())
    again = Tiny()
    _, _, told = train(args, again)
    assert again.batches == 0
    assert told == seconds > 0  # of the training that was done


def test_more_epochs_go_on_and_overwrite_starts_anew(tmp_path):
    train(arguments(tmp_path), Tiny())
    more = Tiny()
    train(arguments(tmp_path, max_epochs=4), more)
    assert more.batches == 5
    fresh = Tiny()
    train(arguments(tmp_path, overwrite=True), fresh)
    assert fresh.batches == 15


def test_a_dry_run_writes_nothing(tmp_path):
    drawn = []

    def draw(module):
        drawn.append(module)
        return image_grids({"x": torch.rand(4, 1, 8, 8)})

    args = arguments(tmp_path, fast_dev_run=True)
    module = Tiny()
    train(args, module, [callbacks.EpochFigure(tmp_path / "runs" / "run", "x", draw)])
    assert drawn  # the code of the figures was run
    assert module.batches == 2
    assert not (tmp_path / "runs").exists()


def test_figures_are_written_for_each_epoch(tmp_path):
    figure = callbacks.EpochFigure(
        tmp_path / "runs" / "run", "x", lambda module: image_grids({"x": torch.rand(4, 1, 8, 8)})
    )
    _, folder, _ = train(arguments(tmp_path), Tiny(), [figure])
    figures = {path.name: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}
    assert sorted(figures) == [f"x_epoch_{number:03d}.png" for number in range(4)]
    train(arguments(tmp_path), Tiny(), [figure])  # a finished run draws nothing again
    assert figures == {path.name: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    args = arguments(tmp_path, max_epochs=1)
    train(args, Tiny())
    last = tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt"
    good = last.read_bytes()

    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        train(arguments(tmp_path, max_epochs=2), Tiny())
    assert last.read_bytes() == good
    assert not list(last.parent.glob(".*"))


def test_other_settings_are_not_mixed_into_a_run(tmp_path):
    train(arguments(tmp_path), Tiny())
    with pytest.raises(ValueError, match=r"--batch-size 128, this command says 64; use another --name"):
        train(arguments(tmp_path, batch_size=64), Tiny())
    with pytest.raises(ValueError, match=r"is not a checkpoint of this Tiny \(weight differs\)"):
        train(arguments(tmp_path), Tiny(width=2))


def test_a_run_is_not_shortened(tmp_path):
    train(arguments(tmp_path), Tiny())
    with pytest.raises(ValueError, match=r"is in epoch 3, this command says --max-epochs 2"):
        train(arguments(tmp_path, max_epochs=2), Tiny())


def test_a_checkpoint_of_another_technique_is_refused(tmp_path):
    train(arguments(tmp_path), Tiny())
    before = (tmp_path / "runs" / "run" / "args.json").read_bytes()

    class Other(Tiny):
        def __init__(self):
            super().__init__()
            self.extra = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="is not a checkpoint of this Other"):
        train(arguments(tmp_path, max_epochs=9), Other())
    assert (tmp_path / "runs" / "run" / "args.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_an_unreadable_checkpoint_is_named(tmp_path, content):
    train(arguments(tmp_path, max_epochs=1), Tiny())
    last = tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt is not a readable checkpoint.*--overwrite"):
        train(arguments(tmp_path), Tiny())


def test_an_unwritable_run_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"run folder .*file/run cannot be written"):
        train(arguments(tmp_path, output_dir=tmp_path / "file"), Tiny())


@pytest.mark.parametrize(
    ("changes", "two_optimizers", "processes", "strategy"),
    [
        ({}, True, 1, "SingleDeviceStrategy"),
        ({"devices": 2}, False, 2, "DDPStrategy"),
        ({"devices": 2}, True, 2, "DDPStrategy"),
        ({"devices": 2, "num_nodes": 2}, True, 4, "DDPStrategy"),
    ],
)
def test_the_strategy_is_chosen(tmp_path, changes, two_optimizers, processes, strategy):
    args = arguments(tmp_path, **changes)
    assert math.prod(devices.processes(args)) == processes
    trainer = training.make_trainer(
        args, tmp_path, monitor="x", mode="min", callbacks=[], two_optimizers=two_optimizers
    )
    assert type(trainer.strategy).__name__ == strategy
    if processes > 1:
        assert trainer.strategy._ddp_kwargs == {"broadcast_buffers": False}


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
def test_precision_reaches_the_trainer(tmp_path, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default, of convolutions
    args = arguments(tmp_path, precision=precision)
    trainer = training.make_trainer(args, tmp_path, monitor="x", mode="min", callbacks=[])
    assert trainer.precision == {"float32": "32-true"}.get(precision, precision)
    assert not torch.backends.cudnn.allow_tf32  # float32 is meant


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    train(arguments(tmp_path), Tiny(), data={"name": "a", "sha256": "1"})
    with pytest.raises(ValueError, match=r'was trained on other data: sha256 "1", now "2"; '):
        train(arguments(tmp_path), Tiny(), data={"name": "a", "sha256": "2"})


def test_scored_again_a_run_keeps_what_is_known_of_its_training(tmp_path, monkeypatch):
    def score(epochs):
        trainer, folder, seconds = train(arguments(tmp_path, max_epochs=epochs), Tiny())
        return runs.write_results(
            folder,
            trainer,
            technique="tiny",
            seeds=[0],
            data={},
            metrics={"score": [1.0]},
            selection="last epoch",
            wall_seconds=seconds + epochs,
            notes=[],
        )

    monkeypatch.setattr(runs, "git_commit", lambda: "first")
    assert score(1)["commit"] == "first"
    monkeypatch.setattr(runs, "git_commit", lambda: "second")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--profile"])
    assert score(1)["commit"] == "first"
    assert score(2)["commit"] == "second"


@pytest.mark.parametrize(("bad", "epoch", "batch"), [(7, 2, 3), (9, 2, 5)])  # within an epoch, at its end
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path, bad, epoch, batch
):
    class Explodes(Tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            number = self.current_epoch * 5 + batch_idx
            self.log("train/loss", loss * (float("inf") if number == bad else 1))
            return loss

    args, module = arguments(tmp_path), Explodes()
    folder = training.open_run(args, module, {})
    trainer = training.make_trainer(
        args, folder, monitor="val/score", mode="min", callbacks=[], losses=("train/loss",)
    )
    expected = rf"train/loss is inf after batch {batch} of epoch {epoch}; .*last.ckpt is from before; take sm"
    with pytest.raises(errors.Diverged, match=expected):
        training.fit(args, trainer, module, Data())
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5


@pytest.mark.parametrize(
    ("bad", "signal_at"), [(10, None), (8, 8)]
)  # at an epoch's end; where it saves itself
def test_weights_that_are_not_finite_are_not_saved(tmp_path, bad, signal_at):
    class Breaks(Tiny):
        def optimizer_step(self, *step):
            super().optimizer_step(*step)
            if self.batches == bad:
                self.weight.data.fill_(math.nan)

    with pytest.raises(errors.Diverged, match=r"weight is not finite in epoch 2; .*last.ckpt is"):
        train(arguments(tmp_path), Breaks(signal_at=signal_at))
    saved = torch.load(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert saved["state_dict"]["weight"].isfinite()


def test_damaged_files_of_a_run_are_named(tmp_path):
    _, folder, _ = train(arguments(tmp_path), Tiny())
    good = (folder / "metrics.csv").read_text()
    for bad in ("a,b\n1,2\n", f"{good}1,2{',3' * good.count(',')}\n"):
        (folder / "metrics.csv").write_text(bad)
        with pytest.raises(ValueError, match=r"metrics.csv is no history of a run"):
            train(arguments(tmp_path), Tiny())
    (folder / "metrics.csv").write_text(good)
    (folder / "args.json").write_text("{")
    with pytest.raises(ValueError, match=r"args.json is damaged"):
        train(arguments(tmp_path), Tiny())
    (folder / "args.json").unlink()
    with pytest.raises(ValueError, match=r"last.ckpt lacks the flags that it was trained with \(args.json\)"):
        train(arguments(tmp_path), Tiny())


def test_overwrite_deletes_the_flags_last(tmp_path, monkeypatch):
    _, folder, _ = train(arguments(tmp_path), Tiny())
    monkeypatch.setattr(
        training.shutil, "rmtree", lambda *given, **more: (_ for _ in ()).throw(OSError("killed"))
    )
    with pytest.raises(ValueError, match="cannot be written"):
        train(arguments(tmp_path, overwrite=True), Tiny())
    assert (folder / "args.json").exists()  # so that it can be overwritten again


def test_overwrite_deletes_run_folders_only(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "precious.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"holds no args.json; delete it yourself"):
        train(arguments(tmp_path, overwrite=True), Tiny())
    assert (tmp_path / "runs" / "run" / "precious.txt").exists()
    for name in ("..", ".", "a/b", ""):
        with pytest.raises(ValueError, match="--name is a folder name"):
            arguments(tmp_path, name=name)


def test_a_check_says_what_would_be_and_writes_nothing(tmp_path, capsys):
    with pytest.raises(Checked, match="run begins; nodes 2, processes on each 1"):
        training.open_run(arguments(tmp_path, check=True, num_nodes=2), Tiny(), {})
    assert not (tmp_path / "runs").exists()
    train(arguments(tmp_path), Tiny())

    def files():
        return {path: path.is_file() and path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = files()
    with pytest.raises(Checked, match="run resumes"):
        training.open_run(arguments(tmp_path, check=True), Tiny(), {"name": "numbers"})
    with pytest.raises(ValueError, match="--batch-size 128, this command says 64"):
        training.open_run(arguments(tmp_path, check=True, batch_size=64), Tiny(), {"name": "numbers"})
    with pytest.raises(ValueError, match=r"last.ckpt/run cannot be written \(Not a directory\)"):
        place = tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt"
        training.open_run(arguments(tmp_path, check=True, output_dir=place), Tiny(), {})
    assert files() == before


def test_what_a_kill_left_half_written_goes(tmp_path):
    _, folder, _ = train(arguments(tmp_path, max_epochs=1), Tiny())
    left = folder / "checkpoints" / ".last.ckpt.12345678.part"
    left.write_bytes(b"half")
    train(arguments(tmp_path, max_epochs=2), Tiny())
    assert not left.exists()


def test_what_a_module_names_is_compiled(tmp_path):
    class Compiled(Tiny):
        compiled = ("inner",)

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(1, 1)

    module = Compiled()
    train(arguments(tmp_path, compile=True, max_epochs=1), module)
    assert module.inner._compiled_call_impl is not None
    assert (
        "inner.weight"
        in torch.load(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)[
            "state_dict"
        ]
    )


def test_parts_do_not_delete_each_other():
    for part, overwrite, said in (
        ((0, 2), True, "delete the run folder first"),
        ((2, 2), False, "--part counts"),
    ):
        with pytest.raises(ValueError, match=said):
            args.check_part(part, overwrite)
    args.check_part((1, 2), False)


@pytest.mark.parametrize(("panels", "rows"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_many_curves_stand_in_rows(panels, rows):
    figure = curves({f"panel {n}": {"line": ([0, 1], [n, n + 1])} for n in range(panels)}, x_label="x")
    assert [axes.get_ylabel() for axes in figure.axes] == [f"panel {n}" for n in range(panels)]
    assert len({round(axes.get_subplotspec().rowspan.start) for axes in figure.axes}) == rows

"""Tables of GANs: rows of changes, what is done is skipped, what collapsed is named."""

import dataclasses
import itertools
import json
import math
import shutil
import signal
from pathlib import Path

import lightning
import pytest
import torch
from test_experiment_gan import small

from rdfia.engine import training
from rdfia.engine.errors import Diverged, Interrupted
from rdfia.engine.runs import read_metrics
from rdfia.generation import experiment_tables
from rdfia.generation.config import ABLATION, LADDER, RGB_LADDER
from rdfia.generation.config import GANArgs as Args
from rdfia.generation.experiment import Experiment, module_flags, read_images, run
from rdfia.generation.experiment_tables import verdict
from rdfia.generation.gan import GANModule
from rdfia.generation.stacked import StackedGAN


@pytest.mark.parametrize(("preset", "ladder"), [("best", LADDER), ("rgb", RGB_LADDER)])
def test_the_ladder_climbs_from_the_practicals_recipe_one_change_at_a_time(preset, ladder):
    practical, best = Args(preset="practical"), Args(preset=preset)
    rungs = [{}, *ladder.values()]
    for lower, upper in itertools.pairwise(rungs):
        assert lower.keys() <= upper.keys()
        assert 1 <= len(upper.items() - lower.items()) <= 2  # the rates of both networks change at once
    top = dataclasses.replace(practical, **rungs[-1])
    assert top.batch_size == best.batch_size
    assert GANModule(**module_flags(top, None)).hparams == GANModule(**module_flags(best, None)).hparams
    assert GANModule(**module_flags(practical, None)).hparams != GANModule().hparams
    assert Args(batch_size=32).batch_size == 32


@pytest.mark.slow
def test_a_table_skips_what_is_done_and_names_what_collapsed(tmp_path, mnist, monkeypatch):
    monkeypatch.setitem(ABLATION, "lr", {"D rate 1e9": {"discriminator_lr": 1e9}})
    args = small(tmp_path, preset="practical", ablation=("lr",), seeds=(0,), interpolate=())
    table = run(args)
    folder = tmp_path / "runs" / "gan"
    assert table == json.loads((folder / "results.json").read_text())
    single = json.loads((folder / "D-rate-1e9_seed_0" / "results.json").read_text())
    for row in ("practical", "D rate 1e9"):
        assert len(table["metrics"][f"{row}/recall"]["values"]) == 1
    assert table["metrics"]["D rate 1e9/recall"] == single["metrics"]["recall"]
    assert any(note in ("D rate 1e9: no digits", "D rate 1e9: diverged") for note in table["notes"])
    assert (folder / "figures" / "samples.png").exists()

    shutil.rmtree(folder / "D-rate-1e9_seed_0")  # a row that is not done is trained again, alone, by its part
    trained, train = [], Experiment.train
    monkeypatch.setattr(Experiment, "train", lambda one: trained.append(one.args.name) or train(one))
    for part, names in (((0, 2), []), ((1, 2), ["D-rate-1e9_seed_0"])):
        assert run(dataclasses.replace(args, part=part)) == {}
        assert trained == names
    assert run(args)["metrics"].keys() == table["metrics"].keys()
    assert trained == ["D-rate-1e9_seed_0"]

    trained.clear()
    monkeypatch.setattr(Experiment, "train", lambda one: trained.append(one.args.name) or train(one))
    more = run(dataclasses.replace(args, seeds=(0, 1)))
    assert trained == ["practical_seed_1", "D-rate-1e9_seed_1"]
    assert more["metrics"]["practical/recall"]["values"][:1] == table["metrics"]["practical/recall"]["values"]
    path = folder / "practical_seed_1" / "results.json"
    earlier = json.loads(path.read_text())
    del earlier["metrics"]["histogram_distance"]  # as if an earlier version had trained it
    path.write_text(json.dumps(earlier))
    left = run(dataclasses.replace(args, seeds=(0, 1)))["metrics"]["practical/histogram_distance"]["values"]
    assert left == [more["metrics"]["practical/histogram_distance"]["values"][0], None]
    with pytest.raises(ValueError, match="--max-epochs 1, this command says 2"):
        run(dataclasses.replace(args, max_epochs=2))
    single_run = dataclasses.replace(args, output_dir=folder, name="practical_seed_0")
    with pytest.raises(ValueError, match="holds a single run; use another --name"):
        run(single_run)


def test_what_became_of_a_training():
    good = {f"class_{digit}": 0.1 for digit in range(10)} | {"judge_fid": 1.0, "recall": 0.7}
    lacking = [{f"class_{digit}": 0.001 for digit in range(count)} for count in (2, 3)]
    assert verdict(good) == "ok"
    assert [verdict(good | few) for few in lacking] == ["ok", "few classes"]
    assert verdict(good | {"recall": 0.0}) == "no digits"
    assert verdict(good | {"judge_fid": math.nan}) == "diverged"


def test_a_bad_row_is_said_before_the_first_is_trained(tmp_path, mnist, monkeypatch):
    monkeypatch.setattr(Experiment, "train", None)
    args = small(tmp_path, preset="practical", ablation=("loss",), label_smoothing=0.1)
    with pytest.raises(ValueError, match="the hinge loss has no labels to smooth"):
        run(args)
    args = small(tmp_path, seeds=(0, 1), batch_size=10**6, check=True)
    with pytest.raises(ValueError, match=r"larger than the .* training images"):
        run(args)
    assert not (tmp_path / "runs").exists()


def test_a_gan_that_diverges_stops_and_is_a_row_of_its_table(tmp_path, mnist, monkeypatch, capsys, undrawn):
    args = small(tmp_path, generator_lr=1e30, interpolate=())
    with pytest.raises(Diverged, match="train/discriminator_loss is nan after batch 2 of epoch 1; take smal"):
        run(args)
    single = json.loads((tmp_path / "runs" / "gan" / "results.json").read_text())
    assert single["status"] == "diverged"
    assert single["metrics"]["judge_fid"]["mean"] is None
    assert "train/discriminator_loss is nan" in single["notes"][-1]

    monkeypatch.setitem(ABLATION, "init", {"orthogonal initialization": {"generator_lr": 1e30}})
    args = small(tmp_path, preset="practical", ablation=("init",), name="table", interpolate=())
    table = run(args)
    assert table["status"] == "1 of 2 trainings diverged"
    assert "orthogonal initialization: diverged" in table["notes"]
    assert table["notes"][-1].startswith("orthogonal initialization, seed 0: train/discriminator_loss is nan")
    assert table["metrics"]["practical/judge_fid"]["mean"] is not None
    with pytest.raises(Diverged):
        run(dataclasses.replace(args, fast_dev_run=True))
    monkeypatch.setattr(Experiment, "train", None)  # nothing is trained again
    assert run(args)["metrics"] == table["metrics"]


def test_seeds_of_a_row_are_trained_at_once(tmp_path, mnist, undrawn, monkeypatch):
    flags = {"seeds": (2, 0), "interpolate": (), "generator_features": 4, "discriminator_features": 4}
    alone = run(small(tmp_path, name="alone", **flags))
    table = run(small(tmp_path, name="together", stack=True, **flags))
    assert table["metrics"].keys() == alone["metrics"].keys()
    folders = [tmp_path / "runs" / name / "best_seed_2" for name in ("alone", "together")]
    assert not list(folders[1].parent.glob("stacked*"))
    first, second = (read_metrics(folder) for folder in folders)
    for name in ("train/discriminator_loss", "train/generator_loss", "train/generator_lr"):
        assert second[name][0] == first[name][0]
        assert second[name][1] == pytest.approx(first[name][1], rel=1e-3)
    for name in ("judge_fid", "recall", "histogram_distance"):
        values = [results["metrics"][name]["values"] for results in (table, alone)]
        assert values[0] == pytest.approx(values[1], rel=0.02)
    # The same command goes on from there: nothing is trained again.
    monkeypatch.setattr(training, "fit", None)
    assert run(small(tmp_path, name="together", stack=True, **flags))["metrics"] == table["metrics"]
    with pytest.raises(ValueError, match="--stack trains several seeds at once; add --seeds"):
        small(tmp_path, stack=True, seeds=(1,))
    with pytest.raises(ValueError, match="--stack trains on one device"):
        run(small(tmp_path, name="two", stack=True, devices=2, **flags))


def test_the_batches_of_a_stacked_row_are_of_its_own_size(tmp_path, mnist, monkeypatch):
    seen = []

    def looked_at(parts, seeds, members, kind, batches, described):
        data = batches(seeds)
        data.trainer = lightning.Trainer(logger=False, enable_checkpointing=False)
        data.setup("fit")
        seen.append(next(iter(data.train_dataloader()))[0].shape)

    monkeypatch.setattr(experiment_tables.stacking, "train_together", looked_at)
    args = small(tmp_path, seeds=(2, 0), stack=True, generator_features=4, discriminator_features=4)
    images = read_images(args)
    for size in (32, 16):
        parts = [dataclasses.replace(args, seeds=(), stack=False, seed=s, batch_size=size) for s in (2, 0)]
        experiment_tables.stack_row(parts, Experiment, images)
    assert seen == [(2, 32, 1, 32, 32), (2, 16, 1, 32, 32)]
    assert images.batch_size == args.batch_size


def test_a_stack_that_was_stopped_goes_on_and_is_not_forgotten(tmp_path, mnist, undrawn, monkeypatch):
    flags = {"seeds": (2, 0), "interpolate": (), "generator_features": 4, "discriminator_features": 4}
    flags |= {"groups": 0, "stack": True}
    whole = run(small(tmp_path, name="whole", **flags))
    step = StackedGAN.training_step

    def stopped(self, batch, batch_idx):
        if self.batches_done == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(StackedGAN, "training_step", stopped)
    with pytest.raises(Interrupted):
        run(small(tmp_path, name="cut", **flags))
    monkeypatch.setattr(StackedGAN, "training_step", step)
    for other in ({"seeds": (2, 1)}, {"stack": False}):
        with pytest.raises(ValueError, match="a training of seeds 2 0 at once that was stopped; go on"):
            run(small(tmp_path, name="cut", **flags | other))
    cut = run(small(tmp_path, name="cut", **flags))
    for name, metric in whole["metrics"].items():
        if "seconds" not in name:
            assert cut["metrics"][name] == metric, name
    histories = [
        (tmp_path / "runs" / name / "best_seed_0" / "metrics.csv").read_text() for name in ("whole", "cut")
    ]
    assert histories[0] == histories[1]


def test_one_of_a_stack_that_diverges_is_trained_again_alone(tmp_path, mnist, undrawn, monkeypatch):
    flags = {"seeds": (2, 0), "interpolate": (), "generator_features": 4, "discriminator_features": 4}
    stack = StackedGAN.stack

    def broken(self, members):
        stack(self, members)
        with torch.no_grad():
            next(self.generator.parameters())[1] = torch.nan

    monkeypatch.setattr(StackedGAN, "stack", broken)
    trained = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda args, *rest: trained.append(args.name) or fit(args, *rest))
    table = run(small(tmp_path, **flags, groups=0, stack=True))
    assert table["status"] == "finished"  # alone, its weights are whole
    assert trained[0].startswith("stacked_")
    last = tmp_path / "runs" / "gan" / "best_seed_0" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


def test_what_cannot_be_stacked_is_said_and_trained_one_after_another(tmp_path, capsys, undrawn):
    tiny = {"generator_features": 4, "discriminator_features": 4, "latent_dim": 8, "max_epochs": 1}
    flags = {"data_dir": Path("sample"), "output_dir": tmp_path, "fast_dev_run": True, "interpolate": ()}
    run(Args(**tiny, **flags, seeds=(0, 1), stack=True, normalization="spectral", accelerator="cpu"))
    said = capsys.readouterr().out
    assert "spectral normalisation trains one seed after another, not --stack" in said
    assert "practical, seed 1" in said or "best, seed 1" in said

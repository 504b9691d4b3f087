import json
from pathlib import Path

import pytest
from conftest import write_some_digits, write_striped_scenes

from rdfia.engine.runs import read_metrics
from rdfia.transfer.config import FineTuneArgs as Args
from rdfia.transfer.experiment_fine_tune import run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_striped_scenes(root)
    return root


def small(scenes: Path, tmp_path: Path, **changes) -> Args:
    settings = {"data_dir": scenes, "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    settings |= {"image_size": 64, "batch_size": 20, "max_epochs": 2}
    return Args(**{**settings, **changes})


def test_a_run_writes_its_numbers_curves_and_checkpoints(scenes, tmp_path, capsys):
    results = run(small(scenes, tmp_path, unfreeze_top_at=1, watch_test=True))
    assert "test accuracy 0." in capsys.readouterr().out
    folder = tmp_path / "runs" / "fine-tune"
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["selection"] == "best accuracy on held-out training images"
    assert results["metrics"]["epochs"]["mean"] == 2
    best = max(read_metrics(folder)["val/accuracy"][1])
    assert results["metrics"]["val_accuracy"]["mean"] == pytest.approx(best)
    rates = read_metrics(folder)
    for name, rate in {"head": 1e-3, "top": 3e-4, "all": 1e-4}.items():
        # falls with the epochs along half a cosine, from the first batch on
        assert sorted(set(rates[f"train/lr_{name}"][1])) == pytest.approx([rate / 2, rate])
    for name in ("curves", "confusion"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_same_command_goes_on_with_the_stage_it_was_in(scenes, tmp_path):
    stages = {"unfreeze_top_at": 1, "unfreeze_all_at": 2}
    run(small(scenes, tmp_path, max_epochs=3, **stages))
    results = run(small(scenes, tmp_path, max_epochs=3, **stages))
    assert results["metrics"]["epochs"]["mean"] == 3
    with pytest.raises(ValueError, match="--max-epochs 3, this command says 4"):  # rates follow the length
        run(small(scenes, tmp_path, max_epochs=4, **stages))


def test_training_on_all_images_uses_the_last_epoch(scenes, tmp_path):
    results = run(small(scenes, tmp_path, max_epochs=1, train_on_val=True))
    assert results["selection"] == "last epoch"
    assert "val_accuracy" not in results["metrics"]
    assert results["data"]["train"] == 75


def test_early_stopping_and_a_dry_run(scenes, tmp_path):
    results = run(small(scenes, tmp_path, max_epochs=9, patience=1, head_lr=1e-12, augment=False))
    assert results["metrics"]["epochs"]["mean"] < 9
    run(small(scenes, tmp_path / "dry", fast_dev_run=True))
    assert not (tmp_path / "dry").exists()


def test_digits(tmp_path):
    write_some_digits(tmp_path)
    digits = {"dataset": "mnist", "layer": "fire4", "head_lr": 1e-2, "augment": False, "max_epochs": 6}
    metrics = run(small(tmp_path, tmp_path, **digits))["metrics"]
    assert metrics["accuracy"]["mean"] > 0.5
    assert "accuracy_without_duplicates" not in metrics
    with pytest.raises(ValueError, match="data set 'mnist' has no watch_test to choose"):
        run(small(tmp_path, tmp_path, **digits, watch_test=True))


def test_bad_input_is_named_before_anything_is_written(scenes, tmp_path):
    with pytest.raises(ValueError, match="squeezenet1_1 has no layer 'pool9'"):
        run(small(scenes, tmp_path, layer="pool9"))
    with pytest.raises(ValueError, match="--patience is at least 1, got -3"):
        run(small(scenes, tmp_path, patience=-3))
    with pytest.raises(ValueError, match="--image-size is at least 32, got 8"):
        run(small(scenes, tmp_path, image_size=8))
    with pytest.raises(ValueError, match="batch size 80 is larger than the 60 training images"):
        run(small(scenes, tmp_path, batch_size=80))
    assert not (tmp_path / "runs").exists()

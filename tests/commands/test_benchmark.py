"""The benchmarks run and write what README reads."""

import json
from pathlib import Path

import pytest
from benchmarks import dann, ddp, gan, gan_sizes, photographs, seeing
from benchmarks.common import Args
from conftest import ROOT

from rdfia.common.environment import has_bfloat16_cpu

SCRIPT = ROOT / "scripts" / "benchmark.py"


@pytest.fixture
def call(call_script):
    """Run the script, once where it would repeat."""
    return lambda *flags: call_script("benchmark.py", *flags, "--data-dir", "sample", "--repeats", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "module", "images"), [("dann", dann, 16), ("gan", gan, 8)])
def test_steps_side_by_side(tmp_path, call, monkeypatch, what, module, images):
    monkeypatch.setattr(module, "BATCH_SIZE", 8)
    done = call(what, "--steps", "3", "--output", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name in ("our", "bare", "usual"):
        assert found[f"{name}_images_per_second"] == pytest.approx(
            images / found[f"{name}_step_seconds"], rel=0.01
        )
    assert found["times_as_fast_as_usual"] == pytest.approx(
        found["usual_step_seconds"] / found["our_step_seconds"], rel=0.01
    )


@pytest.mark.slow
def test_steps_that_train_a_pretrained_network(tmp_path, call, monkeypatch):
    monkeypatch.setattr(photographs, "SIZE", 64)
    monkeypatch.setattr(photographs, "BATCH", 4)
    done = call("photographs", "--steps", "1", "--output", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name in ("float32", "bf16") if has_bfloat16_cpu() else ("float32",):
        expected = found[f"our_{name}_step_seconds"] / found[f"bare_{name}_step_seconds"]
        assert found[f"{name}_over_bare_step"] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_gans_of_all_sizes(tmp_path, call, monkeypatch):
    monkeypatch.setattr(gan_sizes, "SIZES", {size: (4, 1) for size in gan_sizes.SIZES})
    monkeypatch.setattr(gan_sizes, "COUNTS", (1000,))
    done = call("gan-sizes", "--steps", "1", "--output", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for size in (32, 64, 128):
        expected = found[f"our_step_seconds_{size}"] / found[f"bare_step_seconds_{size}"]
        assert found[f"over_bare_step_{size}"] == pytest.approx(expected, rel=0.02)
    assert found["scores_mb_1000"] >= 0


@pytest.mark.slow
def test_more_steps_than_there_are_is_one_line(tmp_path, call):
    done = call("dann", "--steps", "99", "--output", tmp_path / "found.json")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --steps is at most")
    assert not (tmp_path / "found.json").exists()


@pytest.mark.slow
def test_seeing_side_by_side(tmp_path, call, monkeypatch):
    for name, fewer in (("CLASSES", 2), ("IMAGES", 1), ("SAMPLES", 4)):
        monkeypatch.setattr(seeing, name, fewer)
    done = call("seeing", "--steps", "1", "--output", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name, other in (("our_class", "usual_class"), ("our_smooth_grad", "usual_smooth_grad")):
        assert found[f"{name}_times_as_fast"] == pytest.approx(
            found[f"{other}_seconds"] / found[f"{name}_seconds"], rel=0.02
        )


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a slow machine beside another test
def test_one_process_and_two(monkeypatch):
    monkeypatch.setattr(ddp, "EPOCHS", 2)
    small = ["--generator-features", "4", "--discriminator-features", "4"]
    monkeypatch.setattr(ddp, "SCRIPTS", {"gan": [*ddp.SCRIPTS["gan"], *small]})
    found = ddp.measure_ddp(Args("ddp", Path("sample"), repeats=1))
    expected = found["gan_on_1_images_per_second"] / found["gan_on_2_images_per_second"]
    assert found["gan_two_over_one"] == pytest.approx(expected, rel=0.02)

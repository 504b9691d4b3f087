"""Flags that cannot work, errors that a user can mend, and the number format of the machine at hand."""

import dataclasses
import errno
import importlib
import inspect
import json
import re
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import torch
import train_cgan
import train_dann
import train_fine_tune
import train_gan
import train_svm
import typeguard
from conftest import ROOT

from rdfia.__main__ import EXPERIMENTS
from rdfia.adaptation import config as adaptation
from rdfia.adaptation.dann import OFFICE, PAPER, DANNModule
from rdfia.adaptation.methods import METHODS, module_of
from rdfia.engine import devices
from rdfia.engine.args import LONGEST_NAME, GraphFlags, PictureFlags, TrainerArgs, parameters
from rdfia.engine.cli import out_of_memory, run_script
from rdfia.engine.errors import Failed
from rdfia.generation import config as generation
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, RGB, GANModule
from rdfia.interpret import config as visualization
from rdfia.interpret.class_visualization import visualize_classes
from rdfia.interpret.config import Adversarial
from rdfia.transfer import config as transfer
from rdfia.transfer.fine_tune import FineTuneModule

SCRIPTS = ROOT / "scripts"


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        (train_dann.Args, {"lr": float("inf")}, "--lr is a finite number, got inf"),
        (train_dann.Args, {"lambda_max": float("nan")}, "--lambda-max is a finite number, got nan"),
        (train_gan.Args, {"generator_lr": float("inf")}, "--generator-lr is a finite number"),
        (train_gan.Args, {"groups": 1_000_000}, "--groups is at most 10,000, got 1,000,000"),
        (train_gan.Args, {"latent_dim": 10**9}, "--latent-dim is at most 100,000, got 1,000,000,000"),
        (train_gan.Args, {"seeds": (3, 1, 3)}, "--seeds are different from each other, got 3 2 times"),
        (train_cgan.Args, {"seeds": (2**40,)}, "--seeds is at most"),
        (train_dann.Args, {"seeds": (0, 0)}, "--seeds are different"),
        (train_fine_tune.Args, {"max_epochs": 10**20}, "--max-epochs is at most 1,000,000"),
        (train_fine_tune.Args, {"hidden": (10**9,)}, "--hidden is at most 100,000"),
        (train_svm.Args, {"memory_gb": float("inf")}, "--memory-gb is a finite number"),
        (train_svm.Args, {"image_size": 10**6}, "--image-size is at most 4,096"),
        (Adversarial, {"curve": (1.0, float("inf"))}, "--curve is a finite number"),
        (Adversarial, {"queries": 10**12}, "--queries is at most"),
        (TrainerArgs, {"name": "a\nb"}, "--name is a folder name"),
        (TrainerArgs, {"name": "a\x1b[31m"}, "--name is a folder name"),
        (TrainerArgs, {"name": "x" * 300}, f"--name has at most {LONGEST_NAME} bytes, 'xxx.* has 300"),
        (TrainerArgs, {"name": "é" * 60}, "--name has at most 100 bytes, .* has 120"),
        (TrainerArgs, {"name": "what?"}, "--name is a folder name"),
        (TrainerArgs, {"seed": 2**32}, "--seed is at most 4,294,967,295"),
    ],
)
def test_values_that_cannot_work_are_one_line(kind, flags, message):
    with pytest.raises(ValueError, match=message) as error:
        kind(**flags)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_usual_values_and_defaults_pass():
    for kind in (train_dann.Args, train_gan.Args, train_cgan.Args, train_fine_tune.Args, train_svm.Args):
        kind(name="a-name_1.5 é", seed=2**32 - 1)


def test_more_groups_than_latents_or_digits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="groups are at most latent_dim, 20, got 30"):
        GANModule(latent_dim=20, groups=30)
    assert GANModule(latent_dim=20).groups.count == 20
    assert GANModule(latent_dim=60).hparams["groups"] == 50  # what follows from None is written down


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("array of 8 TiB"), "out of memory; take a smaller --batch-size"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of memory; take a smaller",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            "out of memory; take a smaller",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "runs/x"), "runs/x: File name too long"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "runs/x"), "runs/x: Not a directory"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, line, monkeypatch, capsys):
    def main(args):
        raise error

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(Failed) as stop:
        run_script(main, TrainerArgs)
    assert stop.value.code == 2
    assert line in capsys.readouterr().err


def test_out_of_memory_names_flags_that_there_are(monkeypatch, capsys):
    @dataclasses.dataclass
    class Sampling:
        """Flags of sample.py."""

        count: int = 1

    def main(args):
        raise MemoryError("array of 8 TiB")

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(Failed):
        run_script(main, Sampling)
    assert "out of memory; take a smaller --count, or a device with more" in capsys.readouterr().err


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert not out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        run_script_of(RuntimeError("shapes do not match"))


def run_script_of(error: Exception) -> None:
    """Run a script that fails so."""

    def main(args):
        raise error

    argv, sys.argv = sys.argv, ["script.py"]
    try:
        run_script(main, TrainerArgs)
    finally:
        sys.argv = argv


# The number format


@pytest.fixture
def asked(monkeypatch):
    """As a user's shell has it: $RDFIA_PRECISION is not set."""
    monkeypatch.delenv("RDFIA_PRECISION")
    return monkeypatch


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "float32")])
def test_auto_is_bfloat16_where_the_device_has_it(tmp_path, asked, native, precision, capsys):
    asked.setattr(devices, "has_bfloat16", lambda accelerator: native)
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    assert args.precision == "auto"
    assert devices.settle(args).precision == precision
    asked.setattr(devices, "has_bfloat16_cpu", lambda: native)
    devices._say.cache_clear()
    for _ in range(2):  # said once, with what it costs
        devices.say_device("CPU (of a test)", "bf16-mixed", "cpu", 1)
    slow = "; this CPU has no bfloat16 instructions: float32 is about 6 times faster"
    assert capsys.readouterr().out == f"on CPU (of a test), precision bf16-mixed{'' if native else slow}\n"
    assert devices.settle(args, only_float32=True).precision == "float32"
    assert devices.settle(devices.settle(args)).precision == precision


def test_a_run_goes_on_in_the_format_that_it_began_with(tmp_path, asked):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text(json.dumps({"precision": "bf16-mixed"}))
    asked.setattr(devices, "has_bfloat16", lambda accelerator: False)
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    assert devices.settle(args).precision == "bf16-mixed"
    assert devices.settle(dataclasses.replace(args, overwrite=True)).precision == "float32"
    (tmp_path / "run" / "args.json").write_text("{")
    assert devices.settle(args).precision == "float32"


def test_the_environment_may_say_it(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda accelerator: True)
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    assert devices.settle(args).precision == "float32"  # tests/conftest.py
    monkeypatch.setenv("RDFIA_PRECISION", "int8")
    with pytest.raises(ValueError, match="RDFIA_PRECISION is float32, bf16-mixed or 16-mixed, got 'int8'"):
        devices.settle(args)


def test_the_processor_says_whether_it_has_bfloat16(monkeypatch):
    for flags, native in (("fpu avx2 fma", False), ("avx512f avx512_bf16", True), ("asimd bf16 i8mm", True)):
        monkeypatch.setattr(Path, "read_text", lambda self, flags=flags: f"flags : {flags}")
        assert devices.has_bfloat16("cpu") == native


# What is said before torch is imported


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=SCRIPTS.parent, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("train_gan.py", ["--data-dir", "/absent"], "data folder /absent does not exist"),
        ("train_svm.py", ["--data-dir", "sample"], "15 Scene is not part of the embedded sample"),
        ("train_dann.py", ["--data-dir", "sample", "--target", "usps"], "USPS is not part of"),
        ("visualize.py", ["classify", "--data-dir", "/absent"], "data folder /absent does not exist"),
        (
            "train_fine_tune.py",
            ["--dataset", "mnist5"],
            "--dataset 'mnist5' is none of mnist, mnist-m, scene15, usps, fashion-mnist, ",
        ),
    ],
)
def test_what_is_missing_is_said_without_waiting_for_torch(script, flags, message):
    started = time.perf_counter()
    done = call("-X", "importtime", str(SCRIPTS / script), *flags)
    assert time.perf_counter() - started < 5
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert message in lines[-1]
    assert not any(line.endswith("| torch") or "lightning" in line for line in lines[:-1])


def test_visualize_alone_says_what_each_subcommand_does():
    done = call(str(SCRIPTS / "visualize.py"))
    assert done.returncode == 2
    for words in ("describe", "Print the layers", "adversarial", "Make adversarial examples"):
        assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Expected one of {describe")


def test_the_help_of_build_samples_needs_none_of_its_packages():
    done = call(str(SCRIPTS / "build_samples.py"), "--help")
    assert done.returncode == 0
    assert "--ndf" in done.stdout


EVERY_HELP = [
    *(f"train_{name}.py" for name in ("svm", "fine_tune", "dann", "gan", "cgan")),
    *(f"visualize.py {name}" for name in ("describe", "classify", "activations", "class", "saliency")),
    "visualize.py adversarial",
    *(f"{name}.py" for name in ("benchmark", "explore", "gpu_check", "lab", "predict", "prepare_data")),
    *(f"{name}.py" for name in ("report", "sample", "train_judge")),
]


@pytest.mark.parametrize("command", EVERY_HELP)
def test_help_says_what_a_flag_is_that_is_not_given(command, call_script, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    shown = " ".join(call_script(*command.split(), "--help").stdout.split())
    assert "--data-dir" in shown or command in ("report.py", "sample.py")  # which read no data
    assert "default: None" not in shown
    assert "default: )" not in shown


def test_help_gives_the_defaults_of_each_recipe():
    dann, gan = (inspect.signature(kind).parameters for kind in (DANNModule, GANModule))
    drawn = visualization.BEST
    recipes = [
        (adaptation.Args, {n: one.default for n, one in dann.items()}, {"paper": PAPER, "office": OFFICE}),
        (
            generation.GANArgs,
            {name: one.default for name, one in gan.items()},
            {"practical": PRACTICAL, "rgb": RGB},
        ),
        (visualization.ClassVisualization, drawn, {"practical": visualization.PRACTICAL}),
    ]
    by_other_flags = (
        "groups",
        "network",
        "bottleneck",
        "image_size",
        "augment",
        "data_dir",
        "channels",
        "scores",
    )
    told = 0
    for flags, best, others in recipes:
        for name, kind in typing.get_type_hints(flags, include_extras=True).items():
            given = [one.help_behavior_hint for one in getattr(kind, "__metadata__", ())]
            if name in best and given and name not in by_other_flags:
                values = {other: changes[name] for other, changes in others.items() if name in changes}
                told_of = [f"{other}: {value}" for other, value in values.items() if value != best[name]]
                assert given == [f"(default: {'; '.join([str(best[name]), *told_of])})"], name
                told += 1
    assert told == 14 + 21 + 9


def test_experiments_run_without_scripts_too():
    listed = call("-m", "rdfia")
    assert listed.returncode == 0
    for name, experiment in EXPERIMENTS.items():
        assert f"  {name} " in listed.stdout
        assert hasattr(importlib.import_module(f"rdfia.{experiment.config}"), experiment.args)
        assert callable(getattr(importlib.import_module(f"rdfia.{experiment.module}"), experiment.run))
    wrong = call("-m", "rdfia", "diffusion")
    assert wrong.returncode == 2
    assert "error: there is no experiment 'diffusion', but svm, fine-tune" in wrong.stderr
    assert "--ablation" in call("-m", "rdfia", "dann", "--help").stdout
    refused = call("-m", "rdfia", "svm", "--folds", "many")
    assert refused.returncode == 2
    assert "error:" in refused.stderr


PRESETS = [(DANNModule, PAPER), (DANNModule, OFFICE), (GANModule, PRACTICAL), (GANModule, RGB)]


@pytest.mark.parametrize(("module", "preset"), PRESETS)
def test_the_values_of_a_preset_are_of_the_types_that_its_module_takes(module, preset):
    hints = typing.get_type_hints(module.__init__)
    assert preset
    for name, value in preset.items():
        typeguard.check_type(value, hints[name])
        with pytest.raises(typeguard.TypeCheckError):
            typeguard.check_type(object(), hints[name])


FLAGS = [adaptation.Args, generation.GANArgs, generation.ConditionalGANArgs, transfer.SVMArgs]
FLAGS += [
    transfer.FineTuneArgs,
    visualization.Saliency,
    visualization.Adversarial,
    visualization.ClassVisualization,
]


def unread(flags: type) -> set[str]:
    """Return the flags of a technique that no keyword of its modules is named by, and that nobody reads."""
    folder = ROOT / Path(*flags.__module__.split(".")[:-1])
    # What all techniques share of them is read there.
    shared = inspect.getsource(PictureFlags.reading) if issubclass(flags, PictureFlags) else ""
    shared = shared.replace("self.", "args.")
    code = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.name != "config.py")
    methods = [module_of(name) for name in METHODS]
    taken = {
        name
        for module in (*methods, GANModule, cGANModule, FineTuneModule, visualize_classes)
        if module.__module__.startswith(flags.__module__.rpartition(".")[0])
        for name in parameters(module)
    }
    engine = {one.name for kind in (TrainerArgs, GraphFlags) for one in dataclasses.fields(kind)}
    own = {one.name for one in dataclasses.fields(flags)} - engine
    return {
        name
        for name in own - taken
        if not re.search(rf"args\.{name}\b|\"{name}\"|conditional\.{name}\b", code + shared)
    }


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: flags.__name__)
def test_no_flag_is_forgotten(flags):
    assert not unread(flags)


def test_a_flag_that_nobody_reads_is_found():
    forgotten = dataclasses.make_dataclass(
        "Args", [("label_noise", float, 0.0)], bases=(adaptation.Args,), frozen=True
    )
    forgotten.__module__ = adaptation.Args.__module__
    assert unread(forgotten) == {"label_noise"}

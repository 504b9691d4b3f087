"""The parts of `gpu_check.py`: each returns what it found, or raises what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import distributed

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from datamodules.stacked import StackedSeeds
from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.stacked import StackedDANN
from rdfia.common.batch_norm import shared_batch_norm
from rdfia.common.parallel import average_gradients
from rdfia.engine import training
from rdfia.engine.args import TrainerArgs
from rdfia.engine.devices import has_bfloat16, why_no_gpu
from rdfia.generation.cgan import cGANModule
from rdfia.generation.digit_judge import score_images
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.stacked import StackedGAN
from rdfia.transfer.gram import gram_matrix

SCRIPTS = Path(__file__).resolve().parent.parent
PATIENCE = 240  # seconds for a process to start; what a part may take in all ends it earlier on a GPU
WARM, STEPS = 36, 64  # steps before those that count: a graph of a step with R1 is captured in the 25th
Found = dict[str, Any]


def machine(device: str, data_dir: Path, output: Path) -> Found:
    """Return driver, wheel, architecture and memory.

    Raises:
        ValueError: There is no GPU; with torch's reason.
    """
    found: Found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cpu":
        return found | {"name": "CPU", "threads": torch.get_num_threads()}
    if not torch.cuda.is_available():
        raise ValueError(why_no_gpu())
    free, whole = torch.cuda.mem_get_info()
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return found | {
        "name": torch.cuda.get_device_name(),
        "driver": driver,
        "capability": list(torch.cuda.get_device_capability()),
        "built_for": torch.cuda.get_arch_list(),
        "free_gb": round(free / 2**30, 1),
        "memory_gb": round(whole / 2**30, 1),
        "tf32_by_default": torch.backends.cudnn.allow_tf32,
    }


def techniques() -> dict[str, tuple[Callable[[], Any], Callable[[], Any], int]]:
    """Return by name: how to build module and data, and images of a step."""

    def mnist(size: int) -> Callable[[], Any]:
        return partial(MNISTDataModule, "sample", image_size=32, batch_size=size)

    return {
        "gan": (GANModule, mnist(64), 64),
        "gan_practical": (partial(GANModule, **PRACTICAL), mnist(128), 128),
        "cgan": (cGANModule, mnist(64), 64),
        "dann": (DANNModule, partial(MNISTToMNISTMDataModule, "sample", batch_size=128), 256),
    }


class Watch(lightning.Callback):
    """Times steps, counts synchronisations by line, and kernels."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.found = device == "cuda", dict[str, Any]()
        self.steps, self.warm, self.counted = 0, *((WARM, STEPS) if self.on_gpu else (2, 4))
        self.started = 0.0
        self.caught: Any = None
        self.profiler: Any = None

    def wait(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Begin with what is watched next."""
        if self.steps == self.warm:
            self.wait()
            self.started = time.perf_counter()
        if self.steps == self.warm + self.counted and self.on_gpu:
            self.caught = warnings.catch_warnings(record=True)
            self.said = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if self.steps == self.warm + self.counted + 8 and self.on_gpu:
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self.profiler = torch.profiler.profile(activities=activities).__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep what was watched."""
        self.steps += 1
        if self.steps == self.warm + self.counted:
            self.wait()
            self.found["ms_a_step"] = round(1000 * (time.perf_counter() - self.started) / self.counted, 3)
        if self.steps == self.warm + self.counted + 8 and self.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            lines = Counter(f"{Path(one.filename).name}:{one.lineno}" for one in self.said)
            self.found["synchronisations_a_step"] = round(sum(lines.values()) / 8, 2)
            self.found["by_line"] = dict(lines.most_common(8))
        if self.steps == self.warm + self.counted + 16:
            if self.on_gpu:
                self.wait()
                self.profiler.__exit__(None, None, None)
                kernels = [one for one in self.profiler.events() if one.device_type.name == "CUDA"]
                self.found["kernels_a_step"] = round(len(kernels) / 8, 1)
                busy = sum(one.device_time for one in kernels) / 8000
                self.found["gpu_ms_a_step"] = round(busy, 3)
                self.found["busy"] = round(busy / self.found["ms_a_step"], 3)
            trainer.should_stop = True


def steps_of(
    module: Any, data: Any, device: str, output: Path, *, graphs: bool, precision: Any = None
) -> Found:
    """Return what there is to say of steps in a script's own trainer, in bfloat16 where the device has it."""
    accelerator: Any = "gpu" if device == "cuda" else "cpu"
    precision = precision or ("bf16-mixed" if has_bfloat16(accelerator) else "float32")
    flags = TrainerArgs(accelerator=accelerator, precision=precision, max_epochs=4, output_dir=output)
    watch = Watch(device)
    trainer = training.make_trainer(
        flags,
        output / "steps",
        monitor="val/x",
        mode="max",
        callbacks=[watch],
        two_optimizers=not module.automatic_optimization,
    )
    trainer.limit_val_batches = 0
    module.use_graphs = graphs
    with warnings.catch_warnings(action="ignore"):
        trainer.fit(module, data)
    return watch.found


def steps(device: str, data_dir: Path, output: Path) -> Found:
    """Return how steps of each technique go, as usual and as CUDA graphs."""
    found: Found = {}
    for name, (build, data, images) in techniques().items():
        for way in ("usual", "graphs") if device == "cuda" else ("usual",):
            torch.manual_seed(0)
            one = steps_of(build(), data(), device, output, graphs=way == "graphs")
            one["images_a_second"] = round(1000 * images / one["ms_a_step"])
            found[f"{name}, {way}"] = one
    return found


def stacked(device: str, data_dir: Path, output: Path) -> Found:
    """Return what a step of sixteen seeds at once takes beside one, both as graphs where there is a GPU."""
    count, found, graphs = (16 if device == "cuda" else 2), dict[str, Any](), device == "cuda"
    for name in ("gan_practical", "dann"):
        build, data, _ = techniques()[name]
        one = steps_of(build(), data(), device, output, graphs=graphs)
        kind: Any = StackedDANN if name == "dann" else StackedGAN
        together = kind([build() for _ in range(count)])
        all_of_them = steps_of(together, StackedSeeds(data(), range(count)), device, output, graphs=graphs)
        found[name] = {"seeds": count, "one": one, "together": all_of_them}
        found[name]["times_one"] = round(all_of_them["ms_a_step"] / one["ms_a_step"], 2)
    return found


def command(script: str, device: str, output: Path, *flags: Any) -> list[str]:
    """Return the command line of a trainer script."""
    accelerator = ["--accelerator", "gpu" if device == "cuda" else "cpu"]
    given = [sys.executable, SCRIPTS / script, "--output-dir", output, *accelerator, *flags]
    return [str(one) for one in given]


def run(line: list[str]) -> tuple[float, str]:
    """Run a command; return its seconds and what it printed.

    Raises:
        RuntimeError: It failed.
    """
    started = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line[1:4])}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - started, done.stdout


def scripts(device: str, data_dir: Path, output: Path) -> Found:
    """Return what whole commands take: seconds of training, and those from its end to results.json."""
    whole = str(data_dir) != "sample"
    given = ["--data-dir", data_dir, "--overwrite"]
    epochs = {"gan": 5 if whole else 1, "dann": 10 if whole else 1}
    lines: dict[str, tuple[Any, ...]] = {
        "gan": ("train_gan.py", "--preset", "practical", "--max-epochs", epochs["gan"]),
        "dann": ("train_dann.py", "--compare", "--max-epochs", epochs["dann"]),
        "svm": ("train_svm.py", "--data-dir", "sample", "--features", "squeezenet1_1/fire9", "--no-cache"),
        "fine_tune": ("train_fine_tune.py", "--data-dir", "sample", "--max-epochs", 1),
    }
    lines["svm"] += ("--dataset", "mnist", "--image-size", 64, "--components")
    lines["fine_tune"] += ("--dataset", "mnist", "--image-size", 64)
    found: Found = {"data": "MNIST" if whole else "embedded digits"}
    for name, (script, *flags) in lines.items():
        if device == "cpu" and name == "fine_tune":
            continue  # minutes
        seconds, _ = run(command(script, device, output, *given, *flags, "--name", f"check_{name}"))
        results = json.loads((output / f"check_{name}" / "results.json").read_text())
        found[name] = {"seconds": round(seconds, 1), "training_seconds": results["wall_seconds"]}
        found[name] |= {"epochs": epochs[name]} if name in epochs else {}
        found[name]["peak_gpu_memory_gb"] = results.get("peak_gpu_memory_gb")
    return found


def resume(device: str, data_dir: Path, output: Path) -> Found:
    """Return how far an interrupted run that goes on is from one that was not; then let the CPU go on.

    Raises:
        RuntimeError: A command failed, or did not stop when asked.
    """
    flags = ["--data-dir", "sample", "--max-epochs", 2, "--generator-features", 8, "--interpolate"]
    flags += ["--discriminator-features", 8]
    run(command("train_gan.py", device, output, *flags, "--name", "whole", "--overwrite"))
    line = command("train_gan.py", device, output, *flags, "--name", "cut")
    shutil.rmtree(output / "cut", ignore_errors=True)  # of an earlier try
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    history = output / "cut" / "metrics.csv"
    began = time.monotonic()

    def trains() -> bool:  # the file is there, empty, before training begins
        return history.exists() and len(history.read_text().splitlines()) > 1

    while process.poll() is None and time.monotonic() - began < PATIENCE and not trains():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    run(line)
    rows = [(output / name / "metrics.csv").read_text().splitlines() for name in ("whole", "cut")]
    numbers = [[float(x) for line in one[1:] for x in line.split(",") if x] for one in rows]
    if len(numbers[0]) != len(numbers[1]):
        raise RuntimeError(f"metrics.csv of the interrupted run has {len(numbers[1])} numbers")
    pairs = zip(*numbers, strict=True)
    furthest = max(abs(a - b) for a, b in pairs if not (a != a or b != b))
    on_cpu = command("train_gan.py", "cpu", output, *flags, "--name", "cut")
    (output / "cut" / "results.json").unlink()
    run(on_cpu)  # what was trained on the device is scored and drawn on the CPU
    stopped = "interrupted" in said
    return {"interrupted": stopped, "largest_difference": furthest, "equal": furthest == 0.0}


def processes(device: str, data_dir: Path, output: Path) -> Found:
    """Return whether what processes exchange is right: one under nccl, two on one card under gloo."""
    found: Found = {}
    ways = [("gloo", 2)] + ([("nccl", 1)] if device == "cuda" else [])
    for backend, count in ways:
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(29500 + count),
            "WORLD_SIZE": str(count),
        }
        code = f"from gpu import parts; parts.exchange({backend!r}, {device!r})"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ | environment | {"RANK": str(rank)},
                cwd=SCRIPTS,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        for process in started:
            _, said = process.communicate(timeout=PATIENCE)
            if process.returncode:
                raise RuntimeError(f"{backend}: {said.strip().splitlines()[-1]}")
        found[f"{count} under {backend}"] = "equal to one process"
    return found


def exchange(backend: str, device: str) -> None:
    """Average gradients, share BatchNorm and a Gram matrix with the other processes; compare with one alone.

    Raises:
        AssertionError: Something differs.
    """
    distributed.init_process_group(backend)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(8 * count, 3, 5, 5, generator=generator).to(device)
    alone, shared = (torch.nn.BatchNorm2d(3).to(device) for _ in range(2))
    expected = alone(whole)
    expected.square().mean().backward()
    assert shared.running_mean is not None
    assert shared.running_var is not None
    kept = (shared.running_mean, shared.running_var, shared.weight, shared.bias)
    found = shared_batch_norm(whole[rank::count], *kept, 0.1, shared.eps)
    torch.testing.assert_close(found, expected[rank::count])
    found.square().mean().backward()
    average_gradients(shared.parameters(), count)
    for mine, theirs in zip(shared.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shared.running_mean, alone.running_mean)
    features = torch.randn(1500, 40, generator=generator).to(device)
    exact = features.double() @ features.double().T
    torch.testing.assert_close(gram_matrix(features.__getitem__, 1500), exact.cpu(), rtol=1e-4, atol=1e-4)
    features[700] = torch.nan
    try:
        gram_matrix(features.__getitem__, 1500)
    except ValueError:  # on all of them: none is left waiting
        distributed.destroy_process_group()
    else:
        raise AssertionError("a feature that is not a number was not named")


def scores(device: str, data_dir: Path, output: Path) -> Found:
    """Return how far scores of the GPU are from the CPU's.

    Raises:
        AssertionError: Further than rounding.
    """
    data = MNISTDataModule("sample", image_size=32)
    data.setup()
    real, others = data.test_data[range(500)][0], data.train_data[range(500)][0]
    expected = score_images(others, real)
    found = score_images(others.to(device), real.to(device))
    torch.backends.cudnn.allow_tf32 = True  # torch's default: scores are exact all the same
    again = score_images(others.to(device), real.to(device))
    features = torch.randn(600, 2000, generator=torch.Generator().manual_seed(0))
    here = gram_matrix(features.__getitem__, 600)
    there = gram_matrix(features.to(device).__getitem__, 600)
    far = {name: abs(found[name] - value) / max(abs(value), 1e-3) for name, value in expected.items()}
    furthest = max(far, key=far.__getitem__)
    assert far[furthest] < 1e-2, f"{furthest}: {found[furthest]} on {device}, {expected[furthest]} on the CPU"
    assert again == found, "TF32 changes scores"
    gram = float((here - there).abs().max() / here.abs().max())
    assert gram < 1e-6, f"the Gram matrix differs by {gram:.2g}"
    return {"furthest": furthest, "relative_difference": far[furthest], "gram_difference": gram}


def tests(device: str, data_dir: Path, output: Path) -> Found:
    """Return how many of the tests for a GPU pass.

    Raises:
        RuntimeError: One failed.
    """
    root = SCRIPTS.parent
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-n",
        "4",
        "--maxfail=100",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [one for one in lines if one.startswith("FAILED")]
    if failed or done.returncode:
        raise RuntimeError("; ".join(failed)[:800] or lines[-1])
    return {"summary": lines[-1]}

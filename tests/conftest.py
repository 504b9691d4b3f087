"""Fakes in the real on-disk formats, and no network."""

import bz2
import gzip
import importlib.util
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from rdfia.common.environment import has_bfloat16_cpu
from rdfia.common.memory import keep_freed_memory
from rdfia.engine import runs

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# What trains for minutes: without instructions for bfloat16 that format takes six times as long.
FASTEST = "bf16-mixed" if has_bfloat16_cpu() else "float32"

keep_freed_memory()  # as the scripts do
# Known fonts are looked for again in each cache: what tests start shares this one.
os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())
os.environ["RDFIA_PRECISION"] = "float32"  # the same on all machines, and in all that tests start
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # tests run side by side: threads of theirs would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, request):
    """Let no test reach beyond this machine."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch, tmp_path, request):
    """Keep caches in the test's folder, and forget the user's settings (but for tests on real data)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if "reference" not in request.keywords:
        monkeypatch.delenv("RDFIA_DATA", raising=False)
    torch.manual_seed(0)


@pytest.fixture
def call_script(monkeypatch, capsys):
    """Run a script as its command line would, within this process: no ten seconds for imports.

    What is called is given the script's name, its flags and ``cwd=``; it returns what
    ``subprocess.run`` would.
    """

    def call(script: str, *flags: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        words, code = [str(ROOT / "scripts" / script), *map(str, flags)], 0
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words)
            if cwd is not None:
                patch.chdir(cwd)
            try:
                runpy.run_path(words[0], run_name="__main__")
            except SystemExit as end:
                code = int(end.code or 0)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which often take longest."""
    monkeypatch.setattr(runs, "save_figure", lambda *args: None)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write unsigned bytes in the IDX format, gzipped if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def write_mnist(root: Path, train: int = 120, test: int = 37, suffix: str = ".gz") -> None:
    """Write a small MNIST: pixel (0, 0) of each image holds its number, so that tests can tell them apart."""
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count) % 256
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte{suffix}", labels)


def write_some_digits(root: Path, train: int = 200, test: int = 100) -> None:
    """Write some of the embedded digits as a small MNIST."""
    from datamodules.files import SAMPLES
    from datamodules.mnist import load_mnist

    for part, count in (("train", train), ("t10k", test)):
        images, labels = load_mnist(SAMPLES, train=part == "train")
        raw, some = root / "MNIST" / "raw", slice(0, None, len(images) // count)
        write_idx(raw / f"{part}-images-idx3-ubyte", images[some, 0].numpy())
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[some].byte().numpy())


def write_picture(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> None:
    """Write a picture of noise, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mnist_m(root: Path, train: int = 60, test: int = 20) -> None:
    """Write a small MNIST-M in the layout of the common release."""
    for part, count in (("train", train), ("test", test)):
        for number in range(count):
            write_picture(root / "mnist_m" / f"mnist_m_{part}" / f"{number:08d}.png", (32, 32), number)
        lines = [f"{number:08d}.png {number % 10}\n" for number in range(count)]
        (root / "mnist_m" / f"mnist_m_{part}_labels.txt").write_text("".join(lines))


def write_bsds500(root: Path, count: int = 3) -> None:
    """Write some upright and some lying photographs where BSDS500 has them."""
    for number in range(count):
        size = (60, 40) if number % 2 else (40, 60)
        write_picture(root / "BSDS500" / "data" / "images" / "train" / f"{number}.jpg", size, number)


def write_usps(folder: Path, train: int = 48, test: int = 12) -> None:
    """Write small files in libsvm's format, as torchvision downloads them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for name, count in (("usps.bz2", train), ("usps.t.bz2", test)):
        lines = []
        for number in range(count):
            pixels = generator.uniform(-1, 1, 256).round(4)
            values = " ".join(f"{place}:{value}" for place, value in enumerate(pixels, 1))
            lines.append(f"{number % 10 + 1} {values} \n")
        (folder / name).write_bytes(bz2.compress("".join(lines).encode()))


def write_torchvision_sets(root: Path) -> None:
    """Write small Fashion-MNIST and EuroSAT in their formats."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        raw = root / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    for label, name in enumerate(("Forest", "River")):
        for number in range(6):
            path = root / "eurosat" / "2750" / name / f"{name}_{number + 1}.jpg"
            write_picture(path, (64, 64), 10 * label + number)


def write_scene15(root: Path, train: int = 5, test: int = 4) -> None:
    """Write a small 15 Scene in the published layout, grey pictures of several sizes."""
    from datamodules.scene15 import CLASSES

    for index, name in enumerate(CLASSES):
        for part, count in (("train", train), ("test", test)):
            for number in range(count):
                path = root / "15SceneData" / part / name / f"image_{number:04d}.jpg"
                seed = 1000 * index + number + 500 * (part == "test")
                write_picture(path, (40 + index, 30 + number), seed, "L")


def write_striped_scenes(root: Path) -> None:
    """Write a small 15 Scene in which each class has stripes of its own direction and width."""
    from datamodules.scene15 import CLASSES

    y, x = np.mgrid[:64, :64]
    for index, name in enumerate(CLASSES):
        for part, count in (("train", 5), ("test", 3)):
            folder = root / "15SceneData" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                generator = np.random.default_rng([index, number, part == "test"])
                angle, width = index % 5 * np.pi / 5, 3 + 4 * (index // 5)
                wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / width + generator.uniform(0, 6))
                noisy = 127 + 80 * wave + generator.normal(0, 15, wave.shape)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")


def quiet_trainer(**settings) -> lightning.Trainer:
    """Return a trainer on the CPU that prints and writes nothing."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"accelerator": "cpu", "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return lightning.Trainer(**{**quiet, **settings})


def half_precision(dtype: torch.dtype, scaler: torch.amp.GradScaler | None = None) -> Any:
    """Return a plugin to train in half precision on the CPU, where Lightning has no float16."""
    from lightning.pytorch.plugins.precision import MixedPrecision

    class Half(MixedPrecision):
        def autocast_context_manager(self):
            return torch.autocast("cpu", dtype)

    return Half("16-mixed" if scaler else "bf16-mixed", "cpu", scaler)


@pytest.fixture(scope="session")
def squeezenet() -> torch.nn.Module:
    """SqueezeNet with the embedded weights."""
    from rdfia.common.backbones import load_backbone

    return load_backbone("squeezenet1_1", data_dir="sample")


@pytest.fixture(scope="session")
def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """The three embedded photographs of ImageNet classes, 96 pixels wide, and their classes."""
    from datamodules.imagenet_samples import ImageNetSamplesDataModule

    samples = ImageNetSamplesDataModule("sample", image_size=96)
    samples.prepare_data()
    samples.setup()
    return samples.data[range(3)]


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A data folder with a small MNIST."""
    write_mnist(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def browser(started_browser):
    """A browser that knows nothing of the test before."""
    started_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    started_browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": []})
    started_browser.get("about:blank")
    started_browser.get_log("browser")
    return started_browser


@pytest.fixture(scope="session")
def started_browser():
    """Debian's chromium and chromium-driver, without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def accessibility_faults(browser: Any) -> list[str]:
    """Return what axe-core finds serious or critical on the page that a browser shows."""
    spec = importlib.util.find_spec("axe_playwright_python")  # which is not imported: it wants playwright
    assert spec is not None
    assert spec.submodule_search_locations
    browser.execute_script((Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text())
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then(found => done(found.violations))"
    )
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in found
        for node in one["nodes"][:3]
        if one["impact"] in ("serious", "critical")
    ]

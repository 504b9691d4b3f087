"""300 mutated files and flags: one line that names the thing, or all of what was there; never a traceback.

Seeded: each case is the same at each run.
"""

import gzip
import io
import json
import math
import sys

import numpy as np
import pytest
import torch
import torchvision
import train_cgan
import train_dann
import train_fine_tune
import train_gan
import train_svm
import visualize
from conftest import write_idx, write_mnist, write_picture
from PIL import Image
from safetensors.torch import save_file

from datamodules.files import SAMPLES
from datamodules.images import decode_all
from datamodules.mnist import load_mnist
from rdfia.common.backbones import load_backbone
from rdfia.engine import questions, report
from rdfia.engine.cli import run_script
from rdfia.engine.errors import Failed
from rdfia.engine.runs import read_results


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """Return data with one thing changed: cut, flipped bits, inserted bytes, nothing, something else."""
    changed, kind = bytearray(data), generator.integers(7)
    place = int(generator.integers(max(len(data), 1)))
    length = int(generator.integers(1, 40))
    if kind == 0:
        return bytes(changed[:place])
    if kind == 1:
        for _ in range(length):
            changed[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
        return bytes(changed)
    if kind == 2:  # near the start, where headers are
        changed[int(generator.integers(min(64, len(data))))] = int(generator.integers(256))
        return bytes(changed)
    if kind == 3:
        return bytes(changed[:place]) + generator.bytes(length) + bytes(changed[place:])
    if kind == 4:
        return bytes(changed) + generator.bytes(length)
    if kind == 5:
        return bytes(changed[place:])
    return generator.bytes(length) if length % 2 else b""


def one_line(error: Exception, *names: str) -> None:
    """Check that an error is one line that names what is wrong."""
    assert any(name in str(error) for name in names), error
    assert len(str(error).splitlines()) <= 2


SHADES = np.add.outer(np.arange(24), np.arange(30)).astype(np.uint8) * 4
PICTURES = {
    "png": Image.fromarray(np.dstack([SHADES, SHADES.T[:24, :24].repeat(2, 1)[:, :30], 255 - SHADES])),
    "jpg": Image.fromarray(SHADES),
    "gif": Image.fromarray(SHADES).convert("P"),
    "webp": Image.fromarray(np.dstack([SHADES] * 4)),
    "tiff": Image.fromarray(SHADES.astype(np.uint16) * 257),
    "bmp": Image.fromarray(np.dstack([SHADES] * 3)),
}


@pytest.mark.parametrize("suffix", PICTURES)
def test_pictures(tmp_path, suffix):
    """15 of each kind: 90."""
    generator = np.random.default_rng([0, *suffix.encode()])
    buffer = io.BytesIO()
    PICTURES[suffix].save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    for number in range(2):
        write_picture(tmp_path / f"{number}.png", (20, 20), number)
    paths = [tmp_path / "0.png", tmp_path / f"odd.{suffix}", tmp_path / "1.png"]
    for _ in range(15):
        paths[1].write_bytes(mutated(buffer.getvalue(), generator))
        try:
            assert len(decode_all(paths, mode="RGB", size=8)) == 3
        except ValueError as error:
            one_line(error, f"odd.{suffix}")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    """30 of each: 60."""
    generator = np.random.default_rng([1, len(suffix)])
    write_mnist(tmp_path)
    images, labels = load_mnist(tmp_path, train=True)
    folder = tmp_path / "MNIST" / "raw"
    for number in range(30):
        name = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")[number % 2]
        for path in folder.glob(f"{name}*"):
            path.unlink()
        values = images[:, 0].numpy() if number % 2 == 0 else labels.numpy().astype(np.uint8)
        path = folder / f"{name}{suffix}"
        write_idx(path, values)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, generator))
        try:
            found, digits = load_mnist(tmp_path, train=True)
            assert len(found) == len(digits) == len(images)
            if suffix:  # gzip's checksum tells any change of content
                content = gzip.decompress(path.read_bytes())
                assert content == gzip.decompress(whole)
        except ValueError as error:
            one_line(error, name)
        path.write_bytes(whole)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights(tmp_path, suffix):
    """20 of each: 40."""
    torch.manual_seed(0)
    state = torchvision.models.squeezenet1_1().state_dict()
    path = tmp_path / f"own.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole, generator = path.read_bytes(), np.random.default_rng([2, len(suffix)])
    for number in range(20):
        if number % 4 == 3:  # whole files that hold something else
            wrong = dict(state)
            key = list(state)[int(generator.integers(len(state)))]
            value = wrong.pop(key)
            more = [{}, {f"{key}.x": value}, {key: value[:0]}, {key: torch.full_like(value, math.nan)}]
            wrong |= more[number // 4 % 4]
            torch.save(wrong, path) if suffix == "pth" else save_file(wrong, path)
        else:
            path.write_bytes(mutated(whole, generator))
        try:
            loaded = load_backbone("squeezenet1_1", weights=path)
        except ValueError as error:
            one_line(error, "own.", "do not fit squeezenet1_1", "are damaged")
            continue
        if loaded.without_weights:  # and says so
            with pytest.raises(ValueError, match="no weights for"):
                loaded(torch.rand(1, 3, 64, 64))
        else:
            assert len(loaded.state_dict()) == len(state)


JUNK = [None, True, -1, 1e308, 10**30, "", "x" * 300, [], [1, "a"], {}, {"mean": 1}, "NaN", [[[]]]]


def with_junk(value: object, generator: np.random.Generator) -> object:
    """Return JSON with one value somewhere replaced, removed or added."""
    if isinstance(value, dict) and value and generator.random() < 0.8:
        key = list(value)[int(generator.integers(len(value)))]
        if generator.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: with_junk(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.5:
        place = int(generator.integers(len(value)))
        return [*value[:place], with_junk(value[place], generator), *value[place + 1 :]]
    return JUNK[int(generator.integers(len(JUNK)))]


def test_results(tmp_path):
    """60: the page is written all the same, and says of which run it cannot be read."""
    generator = np.random.default_rng(3)
    metric = {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
    share = {"mean": 1.0, "std": None, "values": [1.0], "of": 13, "interval": [0.77, 1.0]}
    data = {"source": {"name": "MNIST", "train": 10, "sha256": "0"}, "target": {"name": "USPS", "test": 5}}
    good = {"name": "one", "technique": "gan", "command": "python x", "commit": "abc", "device": "CPU"}
    good |= {"precision": "32-true", "wall_seconds": 3.5, "peak_memory_gb": 1.0, "seeds": [0, 1]}
    good |= {"data": data, "metrics": {"accuracy": metric, "a/b": share}, "selection": "last", "notes": ["n"]}
    question = questions.Question("?", rows={"one": "one"}, columns={"accuracy": "accuracy", "share": "a/b"})
    (tmp_path / "one").mkdir()
    read = 0
    for number in range(60):
        content = json.dumps(with_junk(good, generator)) if number else json.dumps(good)
        if number % 6 == 5:
            content = mutated(content.encode(), generator).decode(errors="replace")
        (tmp_path / "one" / "results.json").write_text(content)
        runs, failed = {}, {}
        try:
            runs = {"one": read_results(tmp_path / "one" / "results.json")}
            read += 1
        except ValueError as error:
            one_line(error, "results.json is damaged")
            failed["one"] = str(error)
        page = tmp_path / "page.html"
        chapters = [questions.Chapter("all", [question])]
        report.write_report(page, "t", chapters, runs, runs_folder=tmp_path, failed=failed)
        assert bool(runs) != ("results.json is damaged" in page.read_text())
    assert 3 < read < 50


SCRIPTS = {
    "train_dann": (train_dann.Args, train_dann.main),
    "train_gan": (train_gan.Args, train_gan.main),
    "train_cgan": (train_cgan.Args, train_cgan.main),
    "train_fine_tune": (train_fine_tune.Args, train_fine_tune.main),
    "train_svm": (train_svm.Args, train_svm.main),
    "visualize": (visualize.Args, visualize.main),
}
WORDS = [
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "10" * 20,
    "x",
    "a/b",
    "../..",
    "\x00",
    "\n",
    "é" * 200,
    "None",
]
WORDS += ["--", "--lr", "[1]", "0x10", " ", "%s", "{}", "🙂", "mnist:", ":", "vgg16/", "/", "1.5", "True"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags(tmp_path, name, monkeypatch, capsys):
    """10 of each script, of which each either is refused in one line or passes --check: 60."""
    generator = np.random.default_rng([4, *name.encode()])
    kind, main = SCRIPTS[name]
    command = ["describe"] if name == "visualize" else []
    common = [
        "--data-dir",
        str(SAMPLES),
        "--output-dir",
        str(tmp_path / "runs"),
        "--check",
        "--accelerator",
        "cpu",
    ]
    if name in ("train_fine_tune", "train_svm"):
        common += ["--dataset", "mnist"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", [name, *command, "--help"])
        run_script(main, kind)
    told = capsys.readouterr().out
    flags = sorted(
        {word.strip("│,") for word in told.split() if word.startswith("--")} - {"--help", "--wandb"}
    )
    assert len(flags) > 10
    for _ in range(10):
        flag = flags[int(generator.integers(len(flags)))]
        values = [WORDS[int(generator.integers(len(WORDS)))] for _ in range(int(generator.integers(1, 3)))]
        monkeypatch.setattr(sys, "argv", [name, *command, *common, flag, *values])
        try:
            run_script(main, kind)
        except Failed:
            said = capsys.readouterr().err.strip().splitlines()
            assert said[-1].startswith("error: "), said
        assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

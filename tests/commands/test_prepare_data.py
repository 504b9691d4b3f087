import io
import re
import tarfile
import zipfile
from pathlib import Path

import prepare_data
import pytest
from conftest import (
    write_bsds500,
    write_mnist,
    write_mnist_m,
    write_picture,
    write_scene15,
    write_torchvision_sets,
    write_usps,
)
from prepare_data import Args, main

from datamodules import files
from datamodules.scene15 import CLASSES


@pytest.fixture
def offline(monkeypatch):
    """Note which addresses are asked for; none answers."""
    asked = []

    def download(url, path, md5=None):
        asked.append(url)
        raise ConnectionError(f"could not download {url}")

    monkeypatch.setattr(files, "download", download)
    return asked


def states(rows) -> dict[str, str]:
    return {row.name: row.state for row in rows}


def test_what_is_there_is_found_and_named(tmp_path, capsys):
    write_mnist(tmp_path)
    write_bsds500(tmp_path)
    write_scene15(tmp_path)
    write_usps(tmp_path / "USPS")
    write_picture(tmp_path / "imagenet-samples" / "n01440764_tench.JPEG", (300, 300), 0)
    (tmp_path / "weights").symlink_to(files.SAMPLES / "weights")
    rows = main(Args("all", tmp_path, architectures=("squeezenet1_1",)))
    assert states(rows) == {
        "mnist": "partial",
        "bsds500": "partial",
        "mnist-m": "complete",  # generated now
        "usps": "partial",
        "scene15": "partial",
        "imagenet-samples": "complete",
        "weights": "complete",
    }
    shown = capsys.readouterr().out
    assert "120 + 37 digits, not the official 60,000 + 10,000" in shown
    assert "75 + 60 images, published split, 0 identical pairs" in shown
    assert len(list((tmp_path / "mnist_m_generated").iterdir())) == 1


def test_the_sample_is_whole():
    assert states(main(Args("mnist", files.SAMPLES))) == {"mnist": "partial"}
    assert states(main(Args("weights", files.SAMPLES, ("squeezenet1_1",)))) == {"weights": "complete"}


def test_a_place_that_is_taken_is_said_before_a_download(tmp_path, offline, capsys):
    (tmp_path / "BSDS500" / "ucm2").mkdir(parents=True)
    with pytest.raises(ValueError, match="not ready"):
        main(Args("bsds500", tmp_path))
    assert "BSDS500 exists, but has no data/images; move it away" in capsys.readouterr().out
    assert not offline
    with pytest.raises(ValueError, match="sample is embedded"):
        main(Args("all", Path("sample")))


def test_weights_that_were_asked_for_and_are_not_there_are_missing(tmp_path):
    (tmp_path / "weights").symlink_to(files.SAMPLES / "weights")
    with pytest.raises(ValueError, match=r"not ready in .*: weights"):
        main(Args("weights", tmp_path, ("squeezenet1_1", "vgg16"), download=False))


def test_a_text_file_named_jpg_is_found(tmp_path, capsys):
    write_scene15(tmp_path)
    (tmp_path / "15SceneData" / "test" / "store" / "image_0001.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"not ready in .*: scene15"):
        main(Args("scene15", tmp_path))
    assert "store/image_0001.jpg is not a readable picture" in capsys.readouterr().out


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("RDFIA_DATA", str(tmp_path))
    assert states(main(Args("mnist"))) == {"mnist": "partial"}


@pytest.mark.parametrize("what", ["bsds500", "scene15", "imagenet-samples"])
def test_a_page_sent_in_place_of_the_file_is_not_kept(tmp_path, monkeypatch, what):
    def download(url, path, md5=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<html>moved</html>")

    monkeypatch.setattr(files, "download", download)
    with pytest.raises(ValueError, match=f"not ready in .*: {what}"):
        main(Args(what, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_release_of_mnist_m_is_counted(tmp_path):
    write_mnist_m(tmp_path)
    (row,) = main(Args("mnist-m", tmp_path))
    assert (row.state, row.detail) == ("partial", "common release, 60 + 20 of 59,001 + 9,001")


def test_what_is_missing_is_asked_for_and_named(tmp_path, offline, capsys):
    with pytest.raises(
        ValueError, match=r"not ready in .*: mnist, bsds500, mnist-m, usps, scene15, imagenet-"
    ):
        main(Args("all", tmp_path / "new", architectures=()))
    assert any("train-images-idx3-ubyte.gz" in url for url in offline)
    for url in (prepare_data.BSDS500_URL, prepare_data.SCENE15_URL, prepare_data.IMAGENET_25_URL):
        assert url in offline
    assert "could not download" in capsys.readouterr().out


def test_looking_downloads_nothing(tmp_path, offline):
    with pytest.raises(ValueError, match="not ready"):
        main(Args("all", tmp_path, download=False))
    rows = main(Args("check", tmp_path))  # who looks may not need all of it
    assert {row.state for row in rows} == {"missing"}
    write_mnist(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "vgg16.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"not ready in .*: weights$"):
        main(Args("check", tmp_path))
    assert offline == []


@pytest.mark.parametrize("what", ["mnist", "bsds500", "scene15", "imagenet-samples", "weights"])
def test_what_is_broken_is_named_and_not_touched(tmp_path, what, offline, capsys):
    write_mnist(tmp_path)
    write_bsds500(tmp_path)
    write_scene15(tmp_path)
    broken = {
        "mnist": tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz",
        "bsds500": tmp_path / "BSDS500" / "data" / "images" / "train" / "1.jpg",
        "scene15": tmp_path / "15SceneData" / "train" / "coast",
        "imagenet-samples": tmp_path / "imagenet_val_25.npz",
        "weights": tmp_path / "weights" / "vgg16.safetensors",
    }[what]
    if what == "scene15":
        broken.rename(broken.with_name("shore"))
    else:
        broken.parent.mkdir(exist_ok=True)
        broken.write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"not ready in .*: {what}"):
        main(Args(what, tmp_path))
    shown = capsys.readouterr().out
    assert "broken" in shown
    assert broken.name in shown
    assert offline == []
    if what != "scene15":
        assert broken.read_bytes() == b"broken"


def test_archives_are_unpacked_where_the_loaders_look(tmp_path, monkeypatch):
    """A stand-in for the downloads: small archives in the layout of the real ones."""
    write_bsds500(tmp_path / "source")
    for number, name in enumerate(CLASSES):
        folder = {"coast": "MITcoast", "suburb": "CALsuburb", "office": "PARoffice"}.get(name, name)
        write_picture(tmp_path / "source" / "scenes" / folder / "image_0001.jpg", (20, 20), number, "L")

    def download(url, path, md5=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if url == prepare_data.BSDS500_URL:
            with tarfile.open(path, "w:gz") as tar:
                tar.add(tmp_path / "source" / "BSDS500", "BSR/BSDS500")
                tar.addfile(tarfile.TarInfo("BSR/documentation.txt"), io.BytesIO())
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted((tmp_path / "source" / "scenes").rglob("*.jpg")):
                    archive.write(file, file.relative_to(tmp_path / "source" / "scenes"))

    monkeypatch.setattr(files, "download", download)
    root = tmp_path / "data"
    assert states(main(Args("bsds500", root))) == {"bsds500": "partial"}
    assert states(main(Args("scene15", root))) == {"scene15": "partial"}
    assert sorted(path.name for path in root.iterdir()) == ["15SceneData", "BSDS500"]  # no archive left
    assert len(list(root.glob("BSDS500/data/images/train/*.jpg"))) == 3


def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, monkeypatch, capsys):
    def download(url, path, md5=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("../../outside.txt"), io.BytesIO())

    monkeypatch.setattr(files, "download", download)
    for filters in (True, False):
        if not filters:
            monkeypatch.delattr(tarfile, "data_filter", raising=False)  # as in Python 3.11.2
        with pytest.raises(ValueError, match=r"not ready in .*: bsds500"):
            main(Args("bsds500", tmp_path / "a" / "b"))
        assert "../../outside.txt lies outside" in capsys.readouterr().out
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("damage", ["garbage after it", "a flipped bit", "cut short"])
def test_a_damaged_archive_is_refused(tmp_path, monkeypatch, damage):
    """tarfile stops at the end of the archive, before gzip's checksum: 40 bytes of garbage were complete."""
    write_bsds500(tmp_path / "source")
    with tarfile.open(tmp_path / "good.tgz", "w:gz") as tar:
        tar.add(tmp_path / "source" / "BSDS500", "BSR/BSDS500")
    whole = (tmp_path / "good.tgz").read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # of the checksum
    sent = {"garbage after it": whole + b"x" * 40, "a flipped bit": bytes(flipped), "cut short": whole[:-4]}

    def download(url, path, md5=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sent[damage])

    monkeypatch.setattr(files, "download", download)
    with pytest.raises(ValueError, match=r"not ready in .*: bsds500"):
        main(Args("bsds500", tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


def test_what_is_downloaded_comes_safely_or_is_checked():
    for url, md5 in (
        (prepare_data.BSDS500_URL, None),
        (prepare_data.SCENE15_URL, prepare_data.SCENE15_MD5),
        (prepare_data.IMAGENET_25_URL, None),
    ):
        assert url.startswith("https://") or md5, url


def test_torchvisions_sets_are_looked_at_where_they_are(tmp_path, capsys):
    write_torchvision_sets(tmp_path)
    prepare_data.main(prepare_data.Args("fashion-mnist", data_dir=tmp_path))
    prepare_data.main(prepare_data.Args("eurosat", data_dir=tmp_path, download=False))
    said = capsys.readouterr().out
    assert re.search(r"fashion-mnist +complete +40 train, 20 test", said)
    assert re.search(r"eurosat +complete +12 train", said)
    prepare_data.main(prepare_data.Args("check", data_dir=tmp_path))
    said = capsys.readouterr().out
    assert "eurosat" in said  # as it is there
    assert "cifar10" not in said
    with pytest.raises(ValueError, match=r"not ready in .*: kmnist"):
        prepare_data.main(prepare_data.Args("kmnist", data_dir=tmp_path, download=False))
    with pytest.raises(ValueError, match=r"'cifar' is none of .*; did you mean cifar10?"):
        prepare_data.Args("cifar")


def test_a_download_that_fails_is_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"not ready in .*: cifar10"):
        prepare_data.main(prepare_data.Args("cifar10", data_dir=tmp_path))
    assert "could not download cifar10" in capsys.readouterr().out

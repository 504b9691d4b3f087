"""Images that do not fit in memory: the same batches, made once, damage found, one process and two."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, write_picture

from datamodules import ImageFolderDataModule, image_cache
from datamodules.image_cache import mapped_images, remembered_digests
from datamodules.listing import list_folder


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("a", "b", "c")):
        for number in range(12):
            write_picture(tmp_path / "own" / name / f"{number}.jpg", (20 + number, 16), 100 * label + number)
    return tmp_path / "own"


def opened(folder, **more):
    data = ImageFolderDataModule(folder, image_size=16, batch_size=4, seed=3, **more)
    data.prepare_data()
    data.setup()
    return data


def batches(data):
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return [batch for loader in loaders for batch in loader]


@pytest.mark.parametrize("options", [{}, {"train_on_val": True}, {"channels": 1, "resize": "crop"}])
def test_batches_are_the_same_from_memory_from_a_file_and_by_workers(folder, tmp_path, options, capsys):
    want = opened(folder, **options)
    away = {"memory_gb": 1e-9, "cache_dir": tmp_path / "cache"}
    for more in (away, away, away | {"num_workers": 2}, {"num_workers": 2}):
        data = opened(folder, **options, **more)
        assert data.train_data.mapped == ("cache_dir" in more)
        assert data.describe() == want.describe()
        for (images, labels), (others, more_labels) in zip(batches(want), batches(data), strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, more_labels)
    assert capsys.readouterr().out.count("decoding 36 images once") == 1
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


@pytest.mark.slow
def test_each_process_maps_the_same_file(folder, tmp_path):
    code = f"""
import torch
from torch import distributed
from datamodules import ImageFolderDataModule
distributed.init_process_group("gloo")
found = []
for more in ({{}}, {{"memory_gb": 1e-9, "cache_dir": {str(tmp_path / "cache")!r}}}):
    data = ImageFolderDataModule({str(folder)!r}, image_size=16, batch_size=4, seed=3, **more)
    if distributed.get_rank() == 0:
        data.prepare_data()
    distributed.barrier()
    data.setup()
    assert data.train_data.mapped == bool(more)
    found.append(torch.cat([images for images, _ in data.train_dataloader()]))
assert torch.equal(*found)
both = [torch.empty_like(found[0]) for _ in range(2)]
distributed.all_gather(both, found[0])
whole = torch.stack(both, 1).flatten(0, 1)  # turns within a batch
if distributed.get_rank() == 0:
    torch.save(whole, {str(tmp_path / "whole.pt")!r})
"""
    (tmp_path / "two.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "two.py")], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    want = torch.cat([images for images, _ in opened(folder).train_dataloader()])
    assert torch.equal(torch.load(tmp_path / "whole.pt"), want)


def test_a_file_serves_one_content_and_damage_is_found(folder, tmp_path, capsys):
    away = {"memory_gb": 1e-9, "cache_dir": tmp_path / "cache"}
    first = opened(folder, **away).describe()["sha256"]
    write_picture(folder / "a" / "0.jpg", (20, 16), 999)
    changed = opened(folder, **away).describe()
    assert changed["sha256"] != first
    assert changed == opened(folder).describe()
    files = sorted((tmp_path / "cache").glob("*.npy"))
    assert len(files) == 2
    capsys.readouterr()
    for path in files:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    again = opened(folder, **away)
    assert "is damaged; made again" in capsys.readouterr().out
    assert again.describe() == changed
    for path in files:
        path.with_suffix(".json").write_text("{")
    assert opened(folder, **away).describe() == changed
    assert "is not readable (JSONDecodeError); made again" in capsys.readouterr().out


def test_files_that_did_not_change_are_not_read_again(folder, tmp_path, monkeypatch):
    files = list_folder(folder).parts[""]
    want = remembered_digests(files, None)
    read = []
    digests = image_cache.digests
    monkeypatch.setattr(image_cache, "digests", lambda paths: read.append(len(paths)) or digests(paths))
    assert np.array_equal(remembered_digests(files, tmp_path / "cache"), want)
    assert np.array_equal(remembered_digests(files[::-1], tmp_path / "cache"), want[::-1])
    write_picture(folder / "b" / "new.jpg", (30, 30), 1)
    more = list_folder(folder).parts[""]
    assert np.array_equal(remembered_digests(more, tmp_path / "cache"), remembered_digests(more, None))
    assert read == [36, 1, 37]
    (kept,) = (tmp_path / "cache").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:300])
    assert np.array_equal(remembered_digests(more, tmp_path / "cache"), remembered_digests(more, None))


def test_unreadable_pictures_are_left_out_of_a_file_too(folder, tmp_path):
    (folder / "c" / "broken.jpg").write_bytes(b"not a picture")
    away = {"memory_gb": 1e-9, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match=r"broken.jpg is not a readable picture"):
        opened(folder, **away)
    assert not list((tmp_path / "cache").glob("*.npy"))
    want = opened(folder, skip_unreadable=True)
    for _ in range(2):
        assert opened(folder, skip_unreadable=True, **away).describe() == want.describe()
    assert want.others["unreadable"] == 1


def test_a_disk_without_room_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match=r"2 decoded images take .* GB, and .* has .* GB free"):
        mapped_images(tmp_path, {}, (2, 3, 10**6, 10**6), lambda pixels: {})
    with pytest.raises(ValueError, match=r"36 images of 16 x 16 take 0.0 GB, more than 1e-09; take smaller"):
        opened(folder, memory_gb=1e-9)

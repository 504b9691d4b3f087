import shutil

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_picture, write_scene15
from PIL import Image
from torchvision.transforms import v2

from datamodules.scene15 import CLASSES, Scene15DataModule


@pytest.fixture
def scenes(tmp_path):
    write_scene15(tmp_path)
    return tmp_path


def one_folder_per_class(root, count=104):
    """Write a copy without a published split, some folders named by where the images came from."""
    for index, name in enumerate(CLASSES):
        folder = {"coast": "MITcoast", "suburb": "CALsuburb", "office": "PARoffice"}.get(name, name)
        for number in range(count):
            path = root / "15SceneData" / folder / f"image_{number:04d}.jpg"
            write_picture(path, (8, 8), 1000 * index + number, "L")


def test_published_split_is_read_as_it_is(scenes):
    data = Scene15DataModule(scenes, image_size=24, batch_size=60)
    data.setup()
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (60, 15, 60)
    assert data.describe()["name"] == "15 Scene, published split"
    assert np.bincount(data.val_data.labels).tolist() == [1] * 15  # a fifth of each class
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (60, 3, 24, 24)
    assert labels.dtype == torch.int64
    assert torch.equal(images[:, 0], images[:, 2])


def test_agrees_with_image_folder_and_torchvisions_resize(scenes):
    data = Scene15DataModule(scenes, image_size=24)
    data.setup()
    transform = v2.Compose([v2.Grayscale(), v2.Resize((24, 24)), v2.PILToTensor()])
    reference = torchvision.datasets.ImageFolder(scenes / "15SceneData" / "test", transform)
    assert reference.classes == list(CLASSES)
    assert torch.equal(data.test_data.images, torch.stack([image for image, _ in reference]))
    assert data.test_data.labels.tolist() == reference.targets


def test_seeded_splits_draw_100_of_each_class(tmp_path):
    one_folder_per_class(tmp_path)
    splits = {}
    for seed in (None, 0, 1):
        data = Scene15DataModule(tmp_path, image_size=8, split_seed=seed, train_on_val=True)
        data.setup()
        assert np.bincount(data.train_data.labels).tolist() == [100] * 15
        assert np.bincount(data.test_data.labels).tolist() == [4] * 15
        assert not {path for path, _ in data.train_files} & {path for path, _ in data.test_files}
        splits[seed] = data.train_files
    assert splits[None] == splits[0] != splits[1]


def test_a_seed_draws_from_all_images_of_a_published_copy(tmp_path):
    write_scene15(tmp_path, train=60, test=45)
    data = Scene15DataModule(tmp_path, image_size=8, split_seed=3, train_on_val=True)
    data.setup()
    assert data.describe()["name"] == "15 Scene, split by seed 3"
    assert (len(data.train_files), len(data.test_files)) == (1500, 75)
    folders = {path.parent.parent.name for path, _ in data.test_files}
    assert folders == {"train", "test"}


@pytest.mark.parametrize(("duplicates", "test", "dropped"), [("keep", 60, 0), ("drop_from_test", 58, 2)])
def test_audit_finds_identical_files(scenes, duplicates, test, dropped, capsys):
    folder = scenes / "15SceneData"
    shutil.copy(folder / "train" / "coast" / "image_0000.jpg", folder / "test" / "coast" / "image_0001.jpg")
    shutil.copy(folder / "train" / "office" / "image_0002.jpg", folder / "test" / "store" / "image_0003.jpg")
    shutil.copy(folder / "test" / "forest" / "image_0000.jpg", folder / "test" / "forest" / "image_0001.jpg")
    data = Scene15DataModule(scenes, image_size=8, duplicates=duplicates)
    data.setup()
    audit = data.describe()["audit"]
    assert (audit["duplicate_pairs"], audit["across_splits"], audit["across_classes"]) == (3, 2, 1)
    assert (len(data.test_data), audit["dropped"]) == (test, dropped)
    assert "3 byte-identical pairs, 2 between train and test" in capsys.readouterr().out


def test_validation_is_the_same_whether_trained_on_or_not(scenes):
    apart, together = (Scene15DataModule(scenes, image_size=8, train_on_val=on) for on in (False, True))
    apart.setup()
    together.setup()
    assert apart.val_files == together.val_files
    assert len(together.train_files) == 75
    assert not set(apart.train_files) & set(apart.val_files)


def test_what_training_holds_is_not_validated_with(scenes):
    folder = scenes / "15SceneData" / "train" / "coast"
    for number in range(1, 5):
        shutil.copy(folder / "image_0000.jpg", folder / f"image_{number:04d}.jpg")
    data = Scene15DataModule(scenes, image_size=8)
    data.setup()
    assert 1 not in data.val_data.labels  # all five pictures of coast are one
    assert len(data.val_data) == 14


def test_a_class_with_one_image_is_named(scenes):
    for number in range(1, 5):
        (scenes / "15SceneData" / "train" / "forest" / f"image_{number:04d}.jpg").unlink()
    with pytest.raises(ValueError, match="class 'forest' has 1 training images, it needs 2"):
        Scene15DataModule(scenes, image_size=8).setup()


def test_a_missing_class_is_named(scenes):
    shutil.rmtree(scenes / "15SceneData" / "train" / "kitchen")
    with pytest.raises(ValueError, match=r"15SceneData/train holds no pictures of class 'kitchen'"):
        Scene15DataModule(scenes).prepare_data()


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"15 Scene not found.*prepare_data.py scene15"):
        Scene15DataModule(tmp_path).prepare_data()


def test_a_text_file_named_jpg_is_named(scenes):
    path = scenes / "15SceneData" / "test" / "store" / "image_0001.jpg"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"store/image_0001.jpg is not a readable picture"):
        Scene15DataModule(scenes, image_size=8).setup()


def test_a_truncated_picture_is_named(tmp_path):
    write_scene15(tmp_path)
    path = tmp_path / "15SceneData" / "train" / "coast" / "image_0001.jpg"
    Image.effect_noise((300, 300), 90).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"coast/image_0001.jpg is not a readable picture"):
        Scene15DataModule(tmp_path, image_size=8).setup()

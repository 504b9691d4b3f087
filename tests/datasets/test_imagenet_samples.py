import lightning
import numpy as np
import pytest
import torch
from conftest import write_picture
from PIL import Image
from torchvision.models import SqueezeNet1_1_Weights
from torchvision.transforms import v2

from datamodules.imagenet_samples import CLASS_INDEX, SYNSETS, ImageNetSamplesDataModule


def write_npz(path, **changes):
    """Write a file like that of the practical: its label_map is a pickle."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    arrays = {"X": pixels, "y": np.array([958, 85, 244, 999]), "label_map": {958: "hay"}} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return pixels


def test_synsets_are_the_1000_in_order():
    names = SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(SYNSETS) == len(set(SYNSETS)) == len(names) == 1000
    assert list(SYNSETS) == sorted(SYNSETS)
    for synset, name in {
        "n01440764": "tench",
        "n02123045": "tabby",
        "n07802026": "hay",
        "n15075141": "toilet tissue",
    }.items():
        assert names[CLASS_INDEX[synset]] == name


def test_the_npz_is_read_without_unpickling(tmp_path):
    pixels = write_npz(tmp_path / "imagenet_val_25.npz")
    samples = ImageNetSamplesDataModule(tmp_path)
    samples.setup()
    images, labels = next(iter(samples.test_dataloader()))
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert labels.tolist() == [958, 85, 244, 999]


@pytest.mark.parametrize(
    "changes",
    [
        {"X": None},
        {"y": None},
        {"y": np.array([1, 2])},
        {"y": np.array([0, 1, 2, 1000])},
        {"X": np.zeros((4, 9))},
    ],
)
def test_another_npz_is_refused(tmp_path, changes):
    write_npz(tmp_path / "imagenet_val_25.npz", **changes)
    with pytest.raises(ValueError, match=r"imagenet_val_25.npz"):
        ImageNetSamplesDataModule(tmp_path).setup()


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "imagenet_val_25.npz").write_text("text")
    with pytest.raises(ValueError, match=r"is no npz file"):
        ImageNetSamplesDataModule(tmp_path).setup()


@pytest.mark.parametrize("layout", ["{synset}_{name}.JPEG", "{synset}/{name}.JPEG"])
def test_class_index_comes_from_the_synset_with_any_subset_of_classes(tmp_path, layout):
    chosen = {"n02123045": 281, "n07920052": 967, "n01440764": 0}
    for number, synset in enumerate(chosen):
        write_picture(
            tmp_path / "imagenet-samples" / layout.format(synset=synset, name="x"), (300, 260), number
        )
    samples = ImageNetSamplesDataModule(tmp_path)
    samples.setup()
    assert samples.data.labels.tolist() == [0, 281, 967]


def test_pictures_are_prepared_as_torchvision_does(tmp_path):
    for number, size in enumerate([(300, 260), (257, 400), (225, 225)]):
        write_picture(tmp_path / f"n01440764_{number}.JPEG", size, number)
    samples = ImageNetSamplesDataModule(path=tmp_path)
    samples.setup()
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    for number, image in enumerate(samples.data.images):
        with Image.open(tmp_path / f"n01440764_{number}.JPEG") as picture:
            assert torch.equal(image, transform(picture.convert("RGB")))


def test_the_sample_shows_three_classes():
    samples = ImageNetSamplesDataModule("sample")
    samples.setup()
    assert samples.data.labels.tolist() == [281, 657, 967]
    assert samples.names == ["n02123045_tabby", "n03773504_missile", "n07920052_espresso"]
    assert samples.describe()["test"] == 3


def test_a_trainer_predicts_each_image_once_in_order():
    class Identity(lightning.LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch[1]

    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    samples = ImageNetSamplesDataModule("sample", batch_size=2)
    assert torch.cat(trainer.predict(Identity(), samples)).tolist() == [281, 657, 967]


def test_an_unknown_synset_is_named(tmp_path):
    write_picture(tmp_path / "n00000001_x.JPEG", (224, 224), 0)
    with pytest.raises(ValueError, match="n00000001 is not one of ImageNet's 1000 synsets"):
        ImageNetSamplesDataModule(path=tmp_path).setup()


def test_nothing_to_read_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"ImageNet samples not found.*prepare_data.py imagenet-samples"
    ):
        ImageNetSamplesDataModule(tmp_path).prepare_data()
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        ImageNetSamplesDataModule(path=tmp_path).setup()
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        ImageNetSamplesDataModule(path=tmp_path / "absent").setup()

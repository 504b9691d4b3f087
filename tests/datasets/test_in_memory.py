"""What all data sets in memory share, with one that says no more than how it is read."""

import pytest
import torch

import datamodules
from datamodules import InMemoryDataModule, dataset, open_dataset
from datamodules.tensors import ImageTensors


class Squares(InMemoryDataModule):
    classes = ("dark", "bright")
    title = "squares"

    def read(self):
        labels = torch.arange(30) % 2
        images = (labels * 200).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
        return ImageTensors(images[:24], labels[:24]), ImageTensors(images[24:], labels[24:])


def test_a_data_set_says_how_it_is_read_and_the_rest_is_shared():
    squares = Squares(batch_size=4, val_fraction=0.25)
    squares.setup()
    assert {name: squares.describe()[name] for name in ("name", "train", "val", "test")} == {
        "name": "squares",
        "train": 18,
        "val": 6,
        "test": 6,
    }
    assert len(list(squares.train_dataloader())) == 18 // 4
    for loader, count in ((squares.val_dataloader(), 6), (squares.test_dataloader(), 6)):
        assert sum(len(labels) for _, labels in loader) == count
    everything = Squares(val_fraction=0.25, train_on_val=True)
    everything.setup()
    assert len(everything.train_data) == 24
    assert everything.val_data.labels.tolist() == squares.val_data.labels.tolist()


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_part_that_would_be_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="val_fraction lies between 0 and 1"):
        Squares(val_fraction=fraction)
    with pytest.raises(ValueError, match="24 training images leave 0 for validation"):
        Squares(val_fraction=0.001).setup()


def test_data_sets_are_found_by_their_names():
    for name, place in datamodules.DATASETS.items():
        kind = getattr(datamodules, place.split(".")[1])
        made = dataset(name)
        assert made is kind or (made.func, made.args) == (kind, (name,))
        assert issubclass(kind, InMemoryDataModule)
    with pytest.raises(ValueError, match="data set 'cifar' is none of mnist, mnist-m, scene15, usps"):
        dataset("cifar")


def test_a_data_set_is_opened_with_what_it_takes():
    assert open_dataset("mnist", "sample", channels=3, image_size=28).channels == 3
    assert open_dataset("mnist-m", "sample", channels=3, image_size=28).image_size == 28
    with pytest.raises(ValueError, match="data set 'usps' has no split_seed to choose"):
        open_dataset("usps", None, split_seed=1)

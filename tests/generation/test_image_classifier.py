"""The classifier of real images, and copies of training images."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.tensors import ImageTensors
from rdfia.generation import image_classifier
from rdfia.generation.experiment_looks import Looks, copies
from rdfia.generation.image_classifier import ImageClassifier, accuracies, confusion, fit_classifier
from rdfia.generation.memorization import near_training_share, nearest

CPU = torch.device("cpu")


def coloured(count, seed=0):
    """Return noisy images of three colours, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.6 * torch.rand(count, 3, 32, 32, generator=generator)
    images[torch.arange(count), labels] += 0.3
    return images, labels


def test_it_learns_to_tell_colours_and_is_the_same_again(monkeypatch):
    monkeypatch.setattr(image_classifier, "BATCH", 12)
    images, labels = coloured(60)
    data = (lambda rows: (images[rows], labels[rows]), 60, 3, 3, CPU)
    states = [fit_classifier(*data, steps=3).state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    monkeypatch.setattr(image_classifier, "SAID_EVERY", 25)
    said: list[str] = []
    fitted = fit_classifier(*data, steps=60, say=said.append)
    assert [line.partition(", ")[0] for line in said] == [
        f"step {done} of 60 of the classifier" for done in (10, 25, 50)
    ]
    new, known = coloured(30, seed=1)
    counts = confusion(fitted, [(new, known)], 3, CPU)
    overall, each = accuracies(counts)
    assert counts.sum() == 30
    assert overall > 0.9
    assert min(each) > 0.7
    assert not any(weight.requires_grad for weight in fitted.parameters())


def test_larger_images_are_averaged_down_and_grey_ones_taken():
    large = torch.rand(2, 1, 64, 64)
    network = ImageClassifier(4, 1).eval()
    small = torch.nn.functional.avg_pool2d(large, 2)
    torch.testing.assert_close(network(large), network(small))


def test_accuracies_by_hand():
    overall, each = accuracies(torch.tensor([[3, 1, 0], [0, 2, 2], [0, 0, 0]]))
    assert overall == pytest.approx(5 / 8)
    assert each[:2] == [0.75, 0.5]
    assert each[2] != each[2]  # nan: there was none


def test_the_nearest_is_found_over_all_parts():
    others = torch.tensor([[0.0], [10.0], [3.0], [-7.0]])
    distance, place = nearest(torch.tensor([[2.0], [-6.5], [100.0]]), others.split(3))
    assert distance.tolist() == [1, 0.5, 90]
    assert place.tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="there are no images"):
        nearest(others, [])


def test_copies_are_told_from_new_images():
    generator = torch.Generator().manual_seed(0)
    training, real, new = torch.randn(3, 500, 8, generator=generator)
    copied = training + 0.01 * torch.randn(500, 8, generator=generator)
    of_real, of_new, of_copies = (nearest(one, training.split(64))[0] for one in (real, new, copied))
    assert near_training_share(of_new, of_real) == pytest.approx(0.05, abs=0.03)
    assert near_training_share(of_copies, of_real) == 1
    assert near_training_share(torch.cat([of_copies, of_new]), of_real) == pytest.approx(0.525, abs=0.02)


def test_few_images_take_a_short_training():
    assert [image_classifier.steps_for(count) for count in (66, 1000, 60_000)] == [200, 468, 2000]


@pytest.mark.parametrize("flips", [True, False])
def test_mirrored_copies_are_copies_where_images_were_mirrored_in_training(flips):
    generator = torch.Generator().manual_seed(0)
    bytes_of = (255 * torch.rand(80, 1, 32, 32, generator=generator)).to(torch.uint8)
    training, real = (ImageTensors(part, torch.zeros(40).long()) for part in bytes_of.split(40))
    scores = SimpleNamespace(network=lambda images: images.flatten(1))
    gan, looks = SimpleNamespace(scores=scores, flips=flips, device=CPU), Looks()
    copies(looks, gan, training[torch.arange(40)][0].flip(-1), training, real)
    assert (looks.scores["near_training_share"] == 1) is flips
    assert ("mirrored or not" in looks.notes["near_training_share"]) is flips

import math

import pytest
import torch

from datamodules.mnist import MNISTDataModule
from rdfia.generation.digit_judge import (
    WEIGHTS,
    DigitScores,
    diversity,
    load_judge,
    score_images,
)


@pytest.fixture(scope="module")
def digits():
    module = MNISTDataModule("sample", image_size=32)
    module.setup()
    return module


def test_judge_reads_digits_it_never_saw(digits):
    images, labels = digits.test_data[range(1000)]
    assert (load_judge()(images).argmax(1) == labels).float().mean() >= 0.99
    assert WEIGHTS.stat().st_size < 1e6


def test_judge_takes_28_and_32_pixels_alike(digits):
    images = digits.test_data[range(8)][0]
    judge = load_judge()
    assert torch.equal(judge(images), judge(images[..., 2:30, 2:30]))


def test_judge_is_frozen_and_keeps_to_float32(digits):
    images = digits.test_data[range(8)][0]
    scores = DigitScores().train()
    before = {name: value.clone() for name, value in scores.judge.state_dict().items()}
    scores.update(images, real=True)
    assert all(torch.equal(before[name], value) for name, value in scores.judge.state_dict().items())
    assert not any(parameter.requires_grad for parameter in scores.judge.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scores.judge(images), load_judge()(images))


def test_scores_of_real_digits_are_good_and_of_noise_bad(digits):
    real = digits.test_data[range(500)][0]
    good = score_images(digits.train_data[range(500)][0], real)
    bad = score_images(torch.rand(500, 1, 32, 32), real)
    assert good["judge_fid"] < 1 < 30 < bad["judge_fid"]
    assert good["precision"] > 0.8
    assert good["recall"] > 0.8 > 0.01 > bad["recall"]
    assert good["confident_share"] > 0.97
    assert good["smallest_class_share"] > 0.05
    assert good["n_real"] == good["n_generated"] == 500


def test_a_collapsed_generator_shows(digits):
    images, labels = digits.train_data[range(1000)]
    scores = score_images(images[labels == 3], digits.test_data[range(500)][0])
    assert scores["class_3"] > 0.98
    assert scores["histogram_distance"] == pytest.approx(0.9, abs=0.02)
    assert scores["recall"] < 0.3


def test_histogram_by_hand(digits):
    images, labels = digits.test_data[range(1000)]
    some = torch.cat([images[labels == 0][:30], images[labels == 1][:10]])
    scores = score_images(some, images[:100])
    assert scores["class_0"] == pytest.approx(0.75)
    assert scores["class_1"] == pytest.approx(0.25)
    # half the sum of |share - 0.1|: (0.65 + 0.15 + 8 * 0.1) / 2
    assert scores["histogram_distance"] == pytest.approx(0.8)
    assert scores["smallest_class_share"] == 0


def test_batches_do_not_change_scores(digits):
    images, real = digits.train_data[range(300)][0], digits.test_data[range(300)][0]
    whole, parts = DigitScores(), DigitScores()
    whole.update(images, real=False)
    whole.update(real, real=True)
    for part in images.split(70):
        parts.update(part, real=False)
    for part in real.split(110):
        parts.update(part, real=True)
    for name, value in whole.compute().items():
        assert value.item() == pytest.approx(parts.compute()[name].item(), rel=1e-4), name


def test_a_generator_that_diverged_scores_nan_not_an_error():
    scores = score_images(torch.full((9, 1, 32, 32), torch.nan), torch.rand(9, 1, 32, 32))
    assert math.isnan(scores["judge_fid"])


def test_few_samples_give_nan_not_an_error(digits):
    scores = score_images(digits.test_data[range(2)][0], digits.test_data[range(2)][0])
    assert math.isnan(scores["judge_fid"])
    assert scores["n_real"] == 2


def test_diversity_by_hand():
    features = torch.tensor([[0.0, 0], [3, 4], [0, 4], [1, 1]])
    found = diversity(features, torch.tensor([0, 0, 0, 1]))
    # class 0: distances 5, 4 and 3, mean 4; class 1 has one image only
    assert found[0].item() == pytest.approx(4)
    assert found[1:].isnan().all()


def test_conditional_scores_of_real_digits_are_those_of_a_perfect_generator(digits):
    images, labels = digits.test_data[range(300)]
    scores = score_images(images, images, asked=labels, real_labels=labels)
    assert scores["conditional_accuracy"] > 0.97
    assert scores["diversity"] == pytest.approx(1, abs=0.02)  # of those that the judge reads right
    accuracies = [scores[f"accuracy_{digit}"] for digit in range(10)]
    assert scores["worst_accuracy"] == min(accuracies)
    counts = torch.bincount(labels, minlength=10) / len(labels)
    assert scores["conditional_accuracy"] == pytest.approx(
        float((counts * torch.tensor(accuracies)).sum()), 1e-5
    )


def test_a_generator_that_makes_one_image_of_each_class_has_no_diversity(digits):
    images, labels = digits.test_data[range(300)]
    one = torch.stack([images[labels == digit][0] for digit in range(10)])
    scores = score_images(one[labels], images, asked=labels, real_labels=labels)
    assert scores["diversity"] < 0.01
    wrong = score_images(one[labels], images, asked=(labels + 1) % 10, real_labels=labels)
    assert wrong["conditional_accuracy"] < 0.05


def test_what_was_not_asked_for_has_no_conditional_scores(digits):
    images, labels = digits.test_data[range(50)]
    assert "conditional_accuracy" not in score_images(images, images, real_labels=labels)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (2 * torch.rand(9, 1, 32, 32) - 1, r"digits lie in \[0, 1\]"),
        (torch.randint(0, 256, (9, 1, 32, 32), dtype=torch.uint8), "got torch.uint8"),
        (torch.rand(9, 3, 32, 32), r"got \(9, 3, 32, 32\)"),
        (torch.rand(1, 32, 32), r"got \(1, 32, 32\)"),
    ],
)
def test_what_is_no_digit_is_not_scored(images, message):
    with pytest.raises(ValueError, match=message):
        score_images(images, torch.rand(9, 1, 32, 32))

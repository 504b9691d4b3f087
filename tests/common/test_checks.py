"""What public functions do not take: one line that says what was seen, and the mend."""

import warnings
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rdfia.common.checks import Normalized, as_classes, check_epsilon, check_images
from rdfia.interpret.adversarial import fgsm, fool, pgd
from rdfia.interpret.attack_results import judge
from rdfia.interpret.black_box_attacks import few_pixels, shapes
from rdfia.interpret.class_visualization import recognized, visualize_classes
from rdfia.interpret.classifier import logits_of, predict
from rdfia.interpret.robust_attacks import patch, robustness
from rdfia.interpret.saliency import (
    channel_max,
    deletion_and_insertion,
    grad_cam,
    gradient,
    integrated_gradients,
    smooth_grad,
)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Conv2d(3, 8, 3)
        self.last = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))

    def forward(self, images):
        return self.last(self.maps(images))


LABELS = torch.tensor([0, 3])
FUNCTIONS = {
    "fool": lambda model, images, labels: fool(model, images, labels, [1, 1], max_steps=2),
    "fgsm": lambda model, images, labels: fgsm(model, images, labels, epsilon=2 / 255),
    "pgd": lambda model, images, labels: pgd(model, images, labels, epsilon=2 / 255, steps=2),
    "judge": lambda model, images, labels: judge(model, images, images, labels),
    "pixels": lambda model, images, labels: few_pixels(model, images, labels, population=8, iterations=1),
    "shapes": lambda model, images, labels: shapes(model, images, labels, generations=2, candidates=4),
    "robustness": lambda model, images, labels: robustness(model, images, labels, views=2),
    "gradient": gradient,
    "smooth_grad": lambda model, images, labels: smooth_grad(model, images, labels, samples=2),
    "integrated": lambda model, images, labels: channel_max(
        integrated_gradients(model, images, labels, steps=2)
    ),
    "grad_cam": lambda model, images, labels: grad_cam(model, images, labels, "maps"),
    "deletion": lambda model, images, labels: deletion_and_insertion(
        model, images, labels, torch.rand(len(images), 12, 12), steps=2
    ),
    "recognized": recognized,
}
IMAGES_ONLY = {
    "patch": lambda model, images, labels: patch(model, images, 1, size=4, steps=1, batch_size=2),
    "class": lambda model, images, labels: visualize_classes([model], LABELS, size=12, start=images, steps=1),
}
BAD = {
    "normalised": (4 * torch.rand(2, 3, 12, 12) - 2, r"lie in \[0, 1\], these go from -.*checks.Normalized"),
    "symmetric": (2 * torch.rand(2, 3, 12, 12) - 1, r"\+ 1\) / 2"),
    "bytes": (torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8), r"got torch.uint8; take .*/ 255"),
    "grey levels": (255 * torch.rand(2, 3, 12, 12), "divide them by 255"),
    "nan": (torch.full((2, 3, 12, 12), torch.nan), "not a number"),
    "single": (torch.rand(3, 12, 12), r"a batch \(B, C, H, W\), got \(3, 12, 12\); .*\[None\]"),
    "array": (torch.rand(2, 3, 12, 12).numpy(), "tensor"),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *IMAGES_ONLY])
@pytest.mark.parametrize("kind", BAD)
def test_images_that_are_not_in_zero_to_one_are_refused_by_each_public_function(name, kind):
    images, message = BAD[kind]
    with pytest.raises(ValueError, match=message) as error:
        (FUNCTIONS | IMAGES_ONLY)[name](Small(), images, LABELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels_may_be_a_list_or_one_number_and_must_be_classes(name):
    model, images, call = Small().eval(), torch.rand(2, 3, 12, 12), FUNCTIONS[name]
    torch.manual_seed(1)
    expected = call(model, images, torch.tensor([3, 3]))
    for labels in ([3, 3], 3):
        torch.manual_seed(1)
        found = call(model, images, labels)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected)
    for labels, message in (
        ([0, 9], "(labels|classes) lie from 0 to 4"),
        (torch.rand(2), "numbers of classes|torch.float32"),
        ([0, 1, 2], "one class for each of 2 images"),
        ("ab", "classes"),
    ):
        with pytest.raises(ValueError, match=message):
            call(model, images, labels)


Output = namedtuple("Output", ["logits", "aux_logits"])


class Gives(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.model, self.wrap = Small(), wrap

    def forward(self, images):
        return self.wrap(self.model(images))

    @property
    def maps(self):
        return self.model.maps


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (logits, "hidden"),
        lambda logits: [logits],
        lambda logits: {"logits": logits},
        lambda logits: SimpleNamespace(logits=logits, loss=None),  # as Hugging Face's
        lambda logits: Output(logits, None),  # as GoogLeNet's
    ],
)
def test_a_model_may_give_more_than_logits(wrap):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(gradient(Gives(wrap), images, LABELS), gradient(Small(), images, LABELS))
    assert torch.equal(predict(Gives(wrap), images), predict(Small(), images))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"features": torch.rand(2, 5)}, r"gives features, wanted logits"),
        ("text", "gives str"),
        (torch.rand(2, 5, 4, 4), r"gives \(2, 5, 4, 4\)"),
        ((), "gives tuple"),
    ],
)
def test_a_model_without_logits_is_named(output, message):
    with pytest.raises(ValueError, match=message):
        logits_of(output)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_first_layer_that_works_in_place_leaves_the_images(name):
    class InPlace(Small):
        def forward(self, images):
            return super().forward(images.sub_(0.5).relu_())

    torch.manual_seed(0)
    images = torch.rand(2, 3, 12, 12)
    before = images.clone()
    FUNCTIONS[name](InPlace(), images, LABELS)
    assert torch.equal(images, before)


def test_a_half_model_takes_float_images():
    images = torch.rand(2, 3, 12, 12)
    for kind in (torch.bfloat16, torch.float16):
        found = gradient(Small().to(kind), images, LABELS)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        alike = torch.corrcoef(torch.stack([found.flatten(), gradient(Small(), images, LABELS).flatten()]))
        assert alike[0, 1] > 0.9


def test_a_layer_may_be_named_and_a_wrong_name_lists_those_there_are():
    model, images = Small(), torch.rand(2, 3, 12, 12)
    assert torch.equal(grad_cam(model, images, LABELS, "maps"), grad_cam(model, images, LABELS, model.maps))
    with pytest.raises(ValueError, match="no layer 'conv9'; it has maps, last"):
        grad_cam(model, images, LABELS, "conv9")


@pytest.mark.parametrize("epsilon", [8.0, -0.1, float("nan"), float("inf")])
def test_an_epsilon_in_grey_levels_is_not_taken_for_pixels(epsilon):
    for attack in (fgsm, pgd):
        with pytest.raises(ValueError, match="at most 1, got") as error:
            attack(Small(), torch.rand(1, 3, 12, 12), 0, epsilon=epsilon)
        assert ("8 grey levels are 8 / 255" in str(error.value)) == (epsilon == 8.0)
    check_epsilon(8.0, torch.rand(1, 3, 12, 12), "l2")  # the length of a change may be


def test_an_attack_of_no_size_fools_nothing():
    model, images = Small().eval(), torch.rand(4, 3, 12, 12)
    labels = predict(model, images)
    assert pgd(model, images, labels, epsilon=0.0).success_rate() == 0


def test_a_network_of_normalised_images_is_wrapped():
    model, images = Small().eval(), torch.rand(2, 3, 12, 12)
    wrapped = Normalized(model)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = model((images - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(wrapped(images), expected)
    assert wrapped.state_dict().keys() == {f"network.{name}" for name in model.state_dict()}


def test_what_resizing_adds_is_let_through():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_images(torch.tensor([[[[-1e-6, 1 + 1e-6]]]]))
        check_images(torch.zeros(0, 3, 4, 4))
    assert as_classes([1, 2], torch.rand(2, 1)).dtype == torch.int64

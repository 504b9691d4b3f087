"""What each method adds to the loss, by hand and against other code; what all of them share."""

import copy
import math
import operator

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from sklearn.metrics.pairwise import rbf_kernel
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from rdfia.adaptation.dann import OFFICE, DANNModule
from rdfia.adaptation.losses import certainty, domain_loss
from rdfia.adaptation.methods import METHODS, module_of
from rdfia.adaptation.methods.cdan import CDANModule, products
from rdfia.adaptation.methods.coral import coral_loss, covariance
from rdfia.adaptation.methods.information_maximization import information_loss
from rdfia.adaptation.methods.mcc import class_confusion
from rdfia.adaptation.methods.mcd import MCDModule, TwoClassifiers, disagreement
from rdfia.adaptation.methods.mmd import WIDTHS, discrepancy, gaussian_kernel, mmd_loss
from rdfia.adaptation.methods.self_training import SelfTrainingModule, consistency_loss
from rdfia.adaptation.module import AdaptationModule, Seen
from rdfia.adaptation.scores import information
from rdfia.engine.callbacks import RandomState

GENERATOR = torch.Generator().manual_seed(0)
SOURCE = torch.randn(12, 5, generator=GENERATOR)
TARGET = 2 * torch.randn(9, 5, generator=GENERATOR) + 1


# Deep CORAL


def test_the_distance_of_covariances_is_that_of_numpy():
    torch.testing.assert_close(covariance(SOURCE), torch.from_numpy(np.cov(SOURCE.T)).float())
    ours, theirs = np.cov(SOURCE.double().numpy().T), np.cov(TARGET.double().numpy().T)
    assert float(coral_loss(SOURCE, TARGET)) == pytest.approx(((ours - theirs) ** 2).sum() / 100, rel=1e-5)
    # by hand: variances 2 and 8, nothing else: (2 - 8)² / (4 · 1)
    assert float(coral_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]]))) == 9
    assert float(coral_loss(SOURCE, SOURCE + 7)) == pytest.approx(0, abs=1e-9)  # means are not compared


# DAN and JAN


def reference_mmd(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the discrepancy by scikit-learn's kernel and loops, in float64."""
    product = 1.0
    for source, target in layers:
        values = torch.cat([source, target]).double().numpy()
        count = len(values)
        squares = [((a - b) ** 2).sum() for a in values for b in values]
        scale = sum(squares) / (count * (count - 1))
        product = product * np.mean([rbf_kernel(values, gamma=1 / (w * scale)) for w in WIDTHS], axis=0)
    first, count = len(layers[0][0]), len(product)
    own = [product[i, j] for i in range(first) for j in range(first) if i != j]
    other = [product[i, j] for i in range(first, count) for j in range(first, count) if i != j]
    both = [product[i, j] for i in range(first) for j in range(first, count)]
    return np.mean(own) + np.mean(other) - 2 * np.mean(both)


def test_the_discrepancy_is_that_of_another_implementation():
    assert float(mmd_loss([SOURCE], [TARGET])) == pytest.approx(reference_mmd([(SOURCE, TARGET)]), rel=1e-5)
    more = SOURCE.softmax(1), TARGET.softmax(1)
    found = float(mmd_loss([SOURCE, more[0]], [TARGET, more[1]]))
    assert found == pytest.approx(reference_mmd([(SOURCE, TARGET), more]), rel=1e-5)


def test_the_discrepancy_by_hand():
    # two and two points, each pair of a domain together, the domains apart: 1 + 1 - 2 · e
    kernel = torch.tensor([[1, 1, 0.2, 0.2], [1, 1, 0.2, 0.2], [0.2, 0.2, 1, 1], [0.2, 0.2, 1, 1]])
    assert float(discrepancy(kernel, 2)) == pytest.approx(2 - 0.4)
    values = torch.tensor([[0.0], [1.0]])  # the mean squared distance is 1
    expected = np.mean([math.exp(-1 / width) for width in WIDTHS])
    assert float(gaussian_kernel(values)[0, 1]) == pytest.approx(expected, rel=1e-5)


def test_the_discrepancy_of_one_distribution_is_nought_on_average():
    generator = torch.Generator().manual_seed(0)
    found = [
        float(mmd_loss([torch.randn(16, 3, generator=generator)], [torch.randn(16, 3, generator=generator)]))
        for _ in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(200)
    assert min(found) < 0
    assert float(mmd_loss([torch.zeros(4, 3)], [torch.zeros(4, 3)])) == pytest.approx(0, abs=1e-6)


# CDAN


def test_products_are_of_features_and_probabilities_without_a_gradient_through_these():
    features = torch.randn(3, 4, requires_grad=True)
    logits = torch.randn(3, 2, requires_grad=True)
    found = products(features, logits)
    expected = torch.einsum("bk,bf->bkf", logits.softmax(1), features).flatten(1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert logits.grad is None
    assert torch.allclose(features.grad, torch.ones(3, 4))  # probabilities sum to 1


def test_certain_predictions_count_more():
    logits = torch.tensor([[100.0, 0.0], [0.0, 0.0]])  # entropies 0 and ln 2: 1 + 1 and 1 + 1/2
    assert certainty(logits).tolist() == pytest.approx([2 / 1.75, 1.5 / 1.75])
    ones = torch.ones(2), torch.ones(2)
    ours, theirs = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = functional.binary_cross_entropy_with_logits(
        torch.cat([ours, theirs]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    )
    torch.testing.assert_close(domain_loss(ours, theirs, weights=ones), expected)
    weighted = domain_loss(ours, theirs, weights=(torch.tensor([2.0, 0.0]), torch.ones(2)))
    parts = 2 * functional.softplus(ours[0]) / 2, functional.softplus(-theirs).mean()
    torch.testing.assert_close(weighted, sum(parts) / 2)


def test_the_domain_classifier_of_cdan_takes_products():
    module = CDANModule(classes=7, domain_width=10)
    assert module.network.domain_classifier[0].in_features == 7 * module.network.width


# MCD


def test_two_classifiers_give_their_mean_probability():
    first, second = nn.Linear(5, 3), nn.Linear(5, 3)
    found = TwoClassifiers(first, second)(SOURCE).softmax(1)
    torch.testing.assert_close(found, (first(SOURCE).softmax(1) + second(SOURCE).softmax(1)) / 2)
    certain = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert float(disagreement(certain, certain.flip(1))) == pytest.approx(1)
    assert float(disagreement(certain, certain)) == 0


def test_classifiers_disagree_more_and_features_leave_them_less():
    torch.manual_seed(0)
    module = MCDModule(classes=3, batch_norm=False, dropout=0.0, ema_decay=0.0).eval()
    images = torch.rand(8, 3, 28, 28)
    seen = module.seen(images, images)
    added, found = module.compare(*seen, strength=0.5)
    assert float(added) == -float(found["adaptation_loss"])
    classifier, features = module.network.classifier.first[0].weight, module.network.features[0].weight
    ours = torch.autograd.grad(added, [classifier, features])
    fresh = disagreement(*module.network.classifier.both(module.network.extract(images)))
    plain = torch.autograd.grad(fresh, [classifier, features])
    torch.testing.assert_close(ours[0], -plain[0])  # a step against it raises the disagreement
    torch.testing.assert_close(ours[1], 0.5 * plain[1])  # and this one lowers it


def test_both_classifiers_have_to_be_right_on_the_source():
    module = MCDModule(classes=3, batch_norm=False, dropout=0.0, ema_decay=0.0)
    first, second = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.0, 20.0, 0.0]])
    classifier = TwoClassifiers(nn.Identity(), nn.Identity())
    classifier.both = lambda features: (first, second)
    module.network.classifier = classifier
    seen = Seen(torch.zeros(1, 3), classifier(torch.zeros(1, 3)))
    assert float(module.losses_of_source(seen, torch.tensor([0]))["class_loss"]) == pytest.approx(
        20, rel=1e-3
    )


# MCC


def reference_confusion(logits: torch.Tensor, temperature: float) -> float:
    """Return the loss of Jin et al., equations 2 to 6, by loops in float64."""
    p = (logits.double() / temperature).softmax(1).numpy()
    count, classes = p.shape
    entropies = -(p * np.log(p)).sum(1)
    weights = count * (1 + np.exp(-entropies)) / (1 + np.exp(-entropies)).sum()
    confusion = np.zeros((classes, classes))
    for a in range(classes):
        for b in range(classes):
            confusion[a, b] = sum(weights[n] * p[n, a] * p[n, b] for n in range(count))
    confusion = confusion / confusion.sum(1, keepdims=True)
    return sum(confusion[a, b] for a in range(classes) for b in range(classes) if a != b) / classes


def test_class_confusion_is_that_of_the_paper():
    for temperature in (1.0, 2.5):
        found = float(class_confusion(TARGET, temperature))
        assert found == pytest.approx(reference_confusion(TARGET, temperature), rel=1e-5)
    assert float(class_confusion(torch.zeros(6, 4))) == pytest.approx(3 / 4)  # guesses
    certain = 1000 * torch.eye(4)[torch.arange(12) % 4]
    assert float(class_confusion(certain)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="temperature is above 0, got 0"):
        module_of("mcc")(temperature=0)


# Information, and self-training


def test_the_information_loss_is_minus_the_information():
    assert float(information_loss(TARGET)) == pytest.approx(-float(information(TARGET.softmax(1))), rel=1e-5)
    for scale in (1.0, 1000.0):  # where softmax rounds to 0 and 1
        logits = (scale * TARGET).requires_grad_()
        information_loss(logits).backward()
        assert logits.grad.isfinite().all()
    balanced = 1000 * torch.eye(4)[torch.arange(8) % 4]
    assert float(information_loss(balanced)) == pytest.approx(-math.log(4), rel=1e-5)


def test_labels_are_those_of_the_other_view_where_it_is_certain():
    given = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    logits = torch.randn(3, 2, requires_grad=True)
    loss, coverage = consistency_loss(logits, given, 0.9)
    certain = functional.cross_entropy(logits[[0, 2]], torch.tensor([0, 1]), reduction="sum") / 3
    torch.testing.assert_close(loss, certain)
    assert float(coverage) == pytest.approx(2 / 3)
    loss.backward()
    assert torch.equal(logits.grad[1], torch.zeros(2))
    with pytest.raises(ValueError, match="threshold lies between 0 and 1"):
        SelfTrainingModule(threshold=1.5)


# All of them


def shifted(count: int = 128, *, shift: float = 0.16, target_labels=None) -> DataLoader:
    """Return two classes that two channels tell; in the target the second channel is brighter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    domains = []
    for more in (0.0, shift):
        level = 0.4 + 0.2 * labels[:, None] + 0.05 * torch.randn(count, 2, generator=generator)
        images = torch.zeros(count, 3, 8, 8)
        images[:, :2] = (level + torch.tensor([0.0, more])).clamp(0, 1)[:, :, None, None]
        domains.append(images)
    given = labels if target_labels is None else target_labels
    data = TensorDataset(domains[0], labels, domains[1], given)

    def collate(items):
        source, known, target, hidden = (torch.stack(part) for part in zip(*items, strict=True))
        return {"source": (source, known), "target": (target, hidden)}

    order = torch.Generator().manual_seed(1)
    return DataLoader(data, 32, shuffle=True, generator=order, collate_fn=collate)


SMALL = {"network": "paper", "image_size": 8, "classes": 2, "domain_width": 10, "ema_decay": 0.0, "lr": 3e-3}
SMALL |= {"scaling": "symmetric"}  # standardized images would undo the shift


def trained(module: AdaptationModule, batches: DataLoader, epochs: int) -> AdaptationModule:
    torch.manual_seed(1)
    quiet_trainer(max_epochs=epochs, callbacks=[RandomState()]).fit(module, batches)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_no_target_label_reaches_any_method(method):
    garbage = torch.randint(-5, 99, (128,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    module = module_of(method)(**SMALL)
    twin = copy.deepcopy(module)
    first = trained(module, shifted(), 2).state_dict()
    second = trained(twin, shifted(target_labels=garbage), 2).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def accuracy_on_the_target(module: AdaptationModule) -> float:
    images, labels = shifted().dataset.tensors[2:]
    return float((module.eval()(images).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def unadapted() -> float:
    torch.manual_seed(0)
    return accuracy_on_the_target(trained(DANNModule(**SMALL, batch_norm=False, adapt=False), shifted(), 40))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "coral"])
def test_each_method_brings_shifted_classes_back(method, unadapted):
    assert unadapted < 0.9
    torch.manual_seed(0)
    module = module_of(method)(**SMALL, batch_norm=False, lambda_max=0.5 if "an" in method else 1.0)
    assert accuracy_on_the_target(trained(module, shifted(), 40)) > unadapted + 0.05


def test_deep_coral_makes_covariances_alike():
    distances = []
    for strength in (0.0, 100.0):
        torch.manual_seed(0)
        module = module_of("coral")(**SMALL, batch_norm=False, dropout=0.0, lambda_max=strength)
        trained(module, shifted(shift=0.3), 10)
        images, _, target, _ = shifted(shift=0.3).dataset.tensors
        distances.append(float(coral_loss(module.eval()(images), module(target))))
    assert distances[1] < distances[0] / 10


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_with_the_recipe_of_photographs_and_its_checkpoint_loads(method, tmp_path):
    small = OFFICE | {"network": "modern", "bottleneck": 6, "domain_width": 8, "image_size": 8, "classes": 2}
    torch.manual_seed(0)
    module = module_of(method)(**small)
    other = quiet_trainer(max_epochs=1, precision="bf16-mixed")
    other.fit(module, shifted())
    assert all(value.isfinite().all() for value in module.state_dict().values())
    other.save_checkpoint(tmp_path / "one.ckpt")
    assert torch.load(tmp_path / "one.ckpt", weights_only=True)["method"] == type(module).__name__
    again = type(module).load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True, map_location="cpu")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(module.eval()(images), again.eval()(images))
    if method in ("self-training", "mcc"):  # which have settings that others do not know
        return
    other = module_of("coral" if method != "coral" else "dan")
    with pytest.raises(ValueError, match=f"the checkpoint is of {type(module).__name__}, not of"):
        other.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True, map_location="cpu")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_compiled_of_a_method_is_there(method):
    module = module_of(method)(**SMALL)
    assert all(isinstance(operator.attrgetter(name)(module), nn.Module) for name in module.compiled)


def test_a_method_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="method 'adda' is none of dann, cdan"):
        module_of("adda")
    with pytest.raises(ValueError, match="adapts to nothing; take adapt=False, or a method"):
        trained(AdaptationModule(**SMALL), shifted(), 1)

import copy

import pytest
import torch
from conftest import quiet_trainer
from test_dann import SMALL, gradients, pairs, trained
from torch.nn import functional

from datamodules.domain_pair import DomainPairDataModule
from datamodules.mnist import MNISTDataModule
from datamodules.mnist_m import MNISTMDataModule
from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.pseudo_labels import PseudoLabelModule, confident, rising_weight


def test_confident_predictions_become_labels():
    probabilities = torch.tensor([[0.95, 0.05], [0.4, 0.6], [0.02, 0.98], [0.9, 0.1]])
    numbers, labels = confident(probabilities, 0.9, balanced=False)
    assert numbers.tolist() == [0, 2, 3]
    assert labels.tolist() == [0, 1, 0]


def test_a_class_that_is_predicted_too_often_keeps_its_most_confident():
    often = torch.tensor([0.91, 0.99, 0.93, 0.97, 0.95, 0.92, 0.94])
    probabilities = torch.cat([torch.stack([often, 1 - often], 1), torch.tensor([[0.05, 0.95]])])
    numbers, labels = confident(probabilities, 0.9)
    assert numbers.tolist() == [1, 3, 4, 6, 7]  # 8 labels, 2 classes: at most 4 of each
    assert labels.tolist() == [0, 0, 0, 0, 1]


def test_predictions_that_cannot_be_labels_are_refused():
    with pytest.raises(ValueError, match=r"no prediction reaches 0.9, the most confident has 0.600"):
        confident(torch.tensor([[0.6, 0.4]]))
    with pytest.raises(ValueError, match="diverged"):
        confident(torch.tensor([[torch.nan, torch.nan]]))


def test_the_weight_rises_as_lee_has_it():
    """Lee 2013, equation 16: T1 = 100 and T2 = 600 of 1000 steps, alpha_f = 3."""
    for step in range(0, 1001, 50):
        expected = 0 if step < 100 else 3 if step >= 600 else (step - 100) / 500 * 3
        assert rising_weight(step / 1000) == pytest.approx(expected)


def test_the_loss_is_that_of_source_and_weighted_target():
    batch = next(iter(pairs()))
    (source, labels), (target, given) = batch["source"], batch["target"]
    given = torch.where(torch.arange(16) < 5, -1, given)  # five without a label
    settings = {**SMALL, "batch_norm": False, "dropout": 0.0, "ema_decay": 0.0}
    torch.manual_seed(0)
    module = PseudoLabelModule(weight=0.5, jitter=False, **settings)
    twin = copy.deepcopy(module.network)
    found = gradients(module, {"source": (source, labels), "target": (target, given)})
    loss = functional.cross_entropy(twin(source), labels)
    loss += 0.5 * functional.cross_entropy(twin(target)[5:], given[5:]) * 11 / 16
    loss.backward()
    for name, weight in twin.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_statistics_are_those_of_the_target_as_it_is_tested():
    batch = next(iter(pairs()))
    torch.manual_seed(0)
    module = PseudoLabelModule(**SMALL, dropout=0.0, ema_decay=0.0)
    alone = copy.deepcopy(module.network).train()
    alone(batch["target"][0])
    gradients(module, batch)
    for name, value in alone.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(module.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_mixed_batches_look_at_no_target_label_and_rounds_do():
    other = torch.arange(48) % 3
    for form, same in (("mixed", True), ("rounds", False)):
        torch.manual_seed(0)
        module = PseudoLabelModule(form=form, threshold=0.0, **SMALL)
        twin = copy.deepcopy(module)
        first, second = trained(module, pairs()), trained(twin, pairs(target_labels=other))
        equal = all(torch.equal(value, second[name]) for name, value in first.items())
        assert equal == same, form


def test_mixed_batches_label_confident_images_only():
    torch.manual_seed(0)
    module = PseudoLabelModule(form="mixed", threshold=0.999, **SMALL)
    images = torch.rand(4, 3, 28, 28)
    module.train()
    assert module.label(images).tolist() == [-1] * 4
    assert module.evaluated.training  # as it was
    module.threshold = 0.0
    assert torch.equal(module.label(images), module.eval()(images).argmax(1))


def test_it_begins_with_the_network_that_was_evaluated_and_reloads(tmp_path):
    adapted = DANNModule(**SMALL, bn_passes="separate")
    trained(adapted, pairs())
    module = PseudoLabelModule(**SMALL, threshold=0.7)
    module.begin_with(adapted)
    images = torch.rand(3, 3, 28, 28)
    expected = adapted.eval()(images)
    assert torch.equal(module.eval()(images), expected)
    assert torch.equal(module.network(images), expected)
    run = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    run.fit(module, pairs())
    run.save_checkpoint(tmp_path / "student.ckpt")
    loaded = PseudoLabelModule.load_from_checkpoint(tmp_path / "student.ckpt", weights_only=True)
    assert loaded.threshold == 0.7
    assert torch.equal(loaded.eval()(images), module.eval()(images))


def test_a_round_trains_on_the_chosen_images_with_their_labels(mnist):
    source = MNISTDataModule(mnist, channels=3, batch_size=10)
    digits = DomainPairDataModule(
        source, MNISTMDataModule(mnist, image_size=28, batch_size=10), batch_size=10
    )
    digits.setup()
    numbers = torch.arange(30, 55)
    digits.pseudo_label(numbers, torch.full((25,), 7))
    chosen = digits.target.train_data.images[numbers].float().div(255)
    batches = [batch["target"] for batch, _, _ in digits.train_dataloader()]
    assert len(batches) == 11  # an epoch stays once over the larger set
    for images, labels in batches:
        assert labels.tolist() == [7] * 10
        for image in images:
            assert (chosen == image).flatten(1).all(1).any()
    digits.pseudo_labelled = None
    assert any((batch["target"][1] != 7).any() for batch, _, _ in digits.train_dataloader())


def test_a_threshold_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="threshold lies between 0 and 1"):
        PseudoLabelModule(threshold=90)


def test_a_misspelt_form_does_not_train_on_the_targets_own_labels():
    with pytest.raises(ValueError, match="form is rounds or mixed, got 'mixd'"):
        PseudoLabelModule(form="mixd")

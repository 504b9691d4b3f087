import copy
import subprocess
import sys

import lightning
import pytest
import torch
from conftest import TESTS, quiet_trainer, write_mnist
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
from rdfia.adaptation import evaluation
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.domain_statistics import of_source, reestimate_statistics
from rdfia.adaptation.losses import SCHEDULES, domain_loss, ganin, reverse_gradient
from rdfia.common.optimization import lr_factor
from rdfia.engine.callbacks import RandomState

SMALL = {"network": "paper", "domain_width": 10}


def pairs(count: int = 48, size: int = 16, *, target=None, target_labels=None) -> DataLoader:
    """Return batches as the data module makes them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, count, 3, 28, 28, generator=generator)
    labels = torch.arange(count) % 10
    target = images[1] if target is None else target
    target_labels = labels if target_labels is None else target_labels
    data = TensorDataset(images[0], labels, target, target_labels)

    def collate(items):
        source, given, other, hidden = (torch.stack(part) for part in zip(*items, strict=True))
        return {"source": (source, given), "target": (other, hidden)}

    return DataLoader(data, size, collate_fn=collate)


def trained(module: DANNModule, batches: DataLoader, epochs: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    quiet_trainer(max_epochs=epochs).fit(module, batches)
    return module.network.state_dict()


# The reversal and the schedules, against values worked out by hand


@pytest.mark.parametrize("strength", [0.0, 0.3, -1.0, torch.tensor(0.7)])
def test_the_reversal_is_the_identity_with_a_scaled_and_turned_gradient(strength):
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    (y**2).sum().backward()
    torch.testing.assert_close(x.grad, -strength * 2 * x.detach())


def test_a_strength_for_each_image():
    x = torch.ones(3, 2, requires_grad=True)
    reverse_gradient(x, torch.tensor([[0.0], [1.0], [2.0]])).sum().backward()
    assert x.grad.tolist() == [[0, 0], [-1, -1], [-2, -2]]


def test_lambda_at_begin_middle_and_end():
    assert [SCHEDULES["ganin"](p) for p in (0, 0.5, 1)] == pytest.approx([0, 0.9866143, 0.9999092], abs=1e-7)
    assert [SCHEDULES["constant"](p) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert [SCHEDULES["linear"](p) for p in (0, 0.5, 1)] == [0, 0.5, 1]
    assert [SCHEDULES["off"](p) for p in (0, 0.5, 1)] == [0, 0, 0]


def test_the_domain_loss_is_the_binary_cross_entropy_of_both():
    source, target = torch.randn(8), torch.randn(8)
    both = torch.cat([source, target])
    expected = functional.binary_cross_entropy_with_logits(both, torch.arange(16) // 8 * 1.0)
    torch.testing.assert_close(domain_loss(source, target), expected)
    assert domain_loss(torch.tensor([9e4]), torch.tensor([-9e4])).isfinite()


# What a training step does


def gradients(module: DANNModule, batch) -> dict[str, torch.Tensor]:
    """Return the gradients of one training step, its dropout seeded."""
    module.log_step = lambda *args: None
    stub = {"global_step": 1, "estimated_stepping_batches": 2, "global_rank": 0, "world_size": 1}
    module._trainer = type("Stub", (), stub)()
    torch.manual_seed(0)
    module.train().zero_grad()
    module.training_step(batch, 0).backward()
    return {name: p.grad.clone() for name, p in module.network.named_parameters() if p.grad is not None}


def plain(**changes) -> DANNModule:
    """Return a module without BatchNorm and dropout, always with the same weights."""
    torch.manual_seed(0)
    return DANNModule(**{**SMALL, "batch_norm": False, "dropout": 0.0, "ema_decay": 0.0, **changes})


def test_lambda_scales_what_reaches_the_features_and_nothing_else():
    batch = next(iter(pairs()))
    strengths = (0.0, 1.0, 3.0)
    none, one, three = (gradients(plain(lambda_max=value), batch) for value in strengths)
    turned = gradients(plain(reversal=False), batch)
    weight = ganin(0.5)
    for name in none:
        if name.startswith("features"):
            pushed = none[name] - one[name]
            assert pushed.abs().max() > 0
            torch.testing.assert_close(none[name] - three[name], 3 * pushed, rtol=1e-3, atol=1e-6)
            # without the reversal the same gradient, at full strength, the other way
            torch.testing.assert_close((turned[name] - none[name]) * weight, pushed, rtol=1e-3, atol=1e-6)
        else:  # classifier and domain classifier learn at full rate
            torch.testing.assert_close(none[name], three[name])


def test_the_step_is_that_of_the_formula():
    batch = next(iter(pairs()))
    module = plain()
    found = gradients(module, batch)
    network = plain().network
    (source, labels), (target, _) = batch["source"], batch["target"]
    features = [network.extract(source), network.extract(target)]
    network.zero_grad()
    class_loss = functional.cross_entropy(network.classifier(features[0]), labels)
    told = torch.cat([network.tell_domain(part) for part in features])
    told_loss = functional.binary_cross_entropy_with_logits(told, torch.arange(32) // 16 * 1.0)
    weights = dict(network.named_parameters())
    by_class = torch.autograd.grad(class_loss, weights.values(), allow_unused=True, retain_graph=True)
    by_domain = torch.autograd.grad(told_loss, weights.values(), allow_unused=True)
    for (name, weight), a, b in zip(weights.items(), by_class, by_domain, strict=True):
        a, b = (torch.zeros_like(weight) if part is None else part for part in (a, b))
        factor = -ganin(0.5) if name.startswith("features") else 1.0
        torch.testing.assert_close(found[name], a + factor * b, rtol=1e-4, atol=1e-6)


def test_one_pass_and_two_differ_by_batch_norm_only():
    batch = next(iter(pairs()))
    for batch_norm, same in ((False, True), (True, False)):
        one, two = (
            gradients(plain(batch_norm=batch_norm, bn_passes=passes), batch)
            for passes in ("concatenated", "separate")
        )
        close = [torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one]
        assert all(close) == same


def test_separate_passes_normalise_each_domain_by_itself():
    module = DANNModule(**SMALL, scaling="none", dropout=0.0, ema_decay=0.0)
    batch = next(iter(pairs()))
    bright = {"source": batch["source"], "target": (batch["target"][0] * 0.1 + 0.9, batch["target"][1])}
    norm, seen = module.network.features[2], []
    handle = norm.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    gradients(module, bright)
    assert len(seen) == 2
    assert max(output.mean().abs().item() for output in seen) < 1e-3  # each domain's own mean is gone
    seen.clear()
    module.bn_passes = "concatenated"
    gradients(module, bright)
    handle.remove()
    source, target = seen[0].split(16)
    apart = (source.mean((0, 2, 3)) - target.mean((0, 2, 3))).abs()
    assert apart.max() > 0.3  # the domains' means differ still


@pytest.mark.parametrize("passes", ["separate", "concatenated"])
def test_separate_passes_evaluate_with_the_statistics_of_the_target(passes):
    batch = next(iter(pairs()))
    dark = {"source": (batch["source"][0] * 0.1, batch["source"][1]), "target": batch["target"]}
    module = DANNModule(**SMALL, scaling="none", dropout=0.0, ema_decay=0.0, bn_passes=passes)
    alone = copy.deepcopy(module.network).train()
    alone(batch["target"][0])  # one pass over the target alone
    gradients(module, dark)
    for part in ("features", "classifier"):
        found = getattr(module.network, part).state_dict()
        means = {
            name: value for name, value in getattr(alone, part).state_dict().items() if "running" in name
        }
        same = [torch.allclose(found[name], value, atol=1e-5) for name, value in means.items()]
        assert same
        assert all(same) == (passes == "separate")
    norms = [layer for layer in module.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)  # as it was


def test_each_domain_is_evaluated_under_statistics_of_its_own():
    """The source was scored under the target's, a combination that training never sees."""
    batch = next(iter(pairs()))
    dark = {"source": (batch["source"][0] * 0.1, batch["source"][1]), "target": batch["target"]}
    torch.manual_seed(0)
    module = DANNModule(**SMALL, scaling="none", dropout=0.0, ema_decay=0.0, lr=0.0)
    for norm in module.network.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = 1.0  # running statistics are those of the last batch
    gradients(module, dark)
    network = module.network.eval()
    for part, source in (("source", True), ("target", False)):
        images = dark[part][0]
        with torch.no_grad(), of_source(network, source):
            features, told = network.extract(images), network.tell_domain(network.extract(images))
        network.train()
        with torch.no_grad(), of_source(network, source):
            by_batch = network.extract(images)
            told_by_batch = network.tell_domain(by_batch)
        network.eval()
        torch.testing.assert_close(features, by_batch, rtol=0.01, atol=0.01)
        torch.testing.assert_close(told, told_by_batch, rtol=0.05, atol=0.1)
    with torch.no_grad():
        other = network.extract(dark["source"][0])  # under the target's: as it was scored before
        with of_source(network):
            own = network.extract(dark["source"][0])
    assert (other - own).abs().mean() > 0.2 * own.abs().mean()


def test_scores_of_a_module_are_of_each_domain_under_its_own_statistics():
    torch.manual_seed(0)
    module = DANNModule(**SMALL, ema_decay=0.0)
    trained(module, pairs())
    batch = next(iter(pairs()))
    module.eval()
    for domain, part in enumerate(("source", "target")):
        images, labels = batch[part]
        scores = (module.source_scores, module.target_scores)[domain]
        scores.reset()
        module.validation_step((images, labels), 0, domain)
        with of_source(module.network, domain == 0), torch.no_grad():
            expected = module.network(images)
        torch.testing.assert_close(torch.cat(list(scores.logits)), expected)


def test_a_source_only_network_has_one_set_of_statistics_and_adabn_gives_it_the_targets():
    torch.manual_seed(0)
    module = DANNModule(**SMALL, adapt=False, ema_decay=0.0, dropout=0.0)
    trained(module, pairs())
    network, batch = module.network.eval(), next(iter(pairs()))
    images = 0.3 * batch["target"][0]
    with torch.no_grad():
        before = network(images)
        with of_source(network):
            assert torch.equal(network(images), before)  # it never saw two domains
        weights = {name: value.clone() for name, value in network.named_parameters()}
        reestimate_statistics(network, [images, images])
        assert not network.training
        with of_source(network):
            torch.testing.assert_close(network(images), before)  # the source's are kept
        after = network(images)
        network.train()
        by_batch = network(images)  # normalised by the batch itself
    torch.testing.assert_close(after, by_batch, rtol=0.1, atol=0.1)
    assert not torch.allclose(after, before, atol=0.1)
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())


# What training looks at


def test_no_target_label_reaches_the_loss():
    generator = torch.Generator().manual_seed(3)
    garbage = torch.randint(-5, 99, (48,), generator=generator)
    for flags in ({}, {"reversal": False}, {"adapt": False}):
        torch.manual_seed(0)
        module = DANNModule(**SMALL, **flags)
        twin = copy.deepcopy(module)
        first, second = trained(module, pairs()), trained(twin, pairs(target_labels=garbage))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name


def test_source_only_never_looks_at_the_target_and_dann_does():
    nothing = torch.full((48, 3, 28, 28), torch.nan)
    torch.manual_seed(0)
    weights = trained(DANNModule(**SMALL, adapt=False), pairs(target=nothing))
    assert all(value.isfinite().all() for value in weights.values())
    with pytest.raises(ValueError, match="images hold values that are not a number"):
        trained(DANNModule(**SMALL), pairs(target=nothing))


def test_the_upper_bound_trains_on_the_target_alone():
    batches, other = pairs(), pairs(target=pairs().dataset.tensors[0], target_labels=torch.arange(48) % 7)
    found = []
    for loader, labelled in ((batches, "source"), (other, "target")):
        torch.manual_seed(0)
        found.append(trained(DANNModule(**SMALL, adapt=False, labelled=labelled), loader))
    assert not torch.equal(found[0]["classifier.0.weight"], found[1]["classifier.0.weight"])
    same = pairs(target=pairs().dataset.tensors[0])
    torch.manual_seed(0)
    again = trained(DANNModule(**SMALL, adapt=False, labelled="target"), same)
    assert torch.equal(found[0]["classifier.0.weight"], again["classifier.0.weight"])
    with pytest.raises(ValueError, match="nothing to adapt"):
        DANNModule(labelled="target")


class Notes(lightning.Callback):
    """Keeps lambda and learning rate of each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        (row,) = module.read_steps()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        assert row.numbers["train/lr"] == rate
        self.steps.append((row.numbers["train/lambda"], rate))


@pytest.mark.parametrize("stop", [4, 6, 7])
@pytest.mark.parametrize("flags", [{}, PAPER])
def test_a_resumed_run_ends_bit_for_bit_as_the_uninterrupted(mnist, tmp_path, stop, flags):
    """Stopped within an epoch of 6 batches, after it, or within the second: lambda, rate, dropout."""
    digits = MNISTToMNISTMDataModule(mnist, batch_size=16, image_size=28)
    settings = flags | SMALL
    torch.manual_seed(0)
    whole = DANNModule(**settings)
    first, resumed = copy.deepcopy(whole), DANNModule(**settings)
    notes = [Notes(), Notes(), Notes()]
    torch.manual_seed(1)
    quiet_trainer(max_epochs=2, callbacks=[notes[0], RandomState()]).fit(whole, digits)
    lr, decay = (0.01, "ganin") if flags else (1e-3, "cosine")
    expected = [(ganin(step / 12), lr * lr_factor(step / 12, decay)) for step in range(12)]
    assert torch.tensor(notes[0].steps).allclose(torch.tensor(expected), atol=1e-6)

    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "part.ckpt")

    torch.manual_seed(1)
    quiet_trainer(max_epochs=2, callbacks=[notes[1], RandomState(), Save()]).fit(first, digits)
    torch.manual_seed(2)
    quiet_trainer(max_epochs=2, callbacks=[notes[2], RandomState()]).fit(
        resumed, digits, ckpt_path=tmp_path / "part.ckpt", weights_only=True
    )
    assert notes[2].steps == notes[0].steps[stop:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="give the trainer max_epochs or max_steps"):
        quiet_trainer(max_epochs=-1).fit(DANNModule(**SMALL), pairs())


# DANN aligns two shifted Gaussians


def toy(strength: float) -> tuple[float, float]:
    """Train a linear feature of two inputs; return target accuracy and the domains' distance.

    Both inputs tell the class in the source. In the target the second is shifted by 6.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 2
    source = torch.randn(2000, 2, generator=generator) * 0.5 + (labels * 2.0 - 1)[:, None]
    target = torch.randn(2000, 2, generator=generator) * 0.5 + (labels * 2.0 - 1)[:, None]
    target[:, 1] += 6
    torch.manual_seed(0)
    feature, classifier, domain = nn.Linear(2, 1, bias=False), nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(feature.weight, 0.5)
    networks = nn.ModuleList([feature, classifier, domain])
    optimizer = torch.optim.SGD(networks.parameters(), lr=0.05)
    for _ in range(2000):
        s, t = feature(source), feature(target)
        loss = functional.binary_cross_entropy_with_logits(classifier(s)[:, 0], labels * 1.0)
        told = [domain(reverse_gradient(part, strength))[:, 0] for part in (s, t)]
        optimizer.zero_grad()
        (loss + domain_loss(*told)).backward()
        optimizer.step()
    right = ((classifier(t)[:, 0] > 0) == labels.bool()).float().mean().item()
    return right, ((s.mean() - t.mean()).abs() / s.std()).item()


def test_dann_aligns_shifted_gaussians_and_source_only_does_not():
    accuracy, distance = toy(0.0)
    assert accuracy < 0.55  # all of the target lies on one side
    assert distance > 2
    accuracy, distance = toy(1.0)
    assert accuracy > 0.95  # Bayes, with the first input alone: 0.977
    assert distance < 0.3


# Alone in a notebook, and at its real work


def test_it_is_usable_with_a_bare_trainer(mnist):
    digits = MNISTToMNISTMDataModule(mnist, batch_size=16, image_size=28)
    module = DANNModule(**SMALL)
    bare = quiet_trainer(max_epochs=1)
    bare.fit(module, digits)
    assert {"val/source_accuracy", "val/target_accuracy", "val/target_entropy", "train/lambda"} <= set(
        bare.callback_metrics
    )
    tested = bare.test(module, digits, verbose=False)
    assert {"test/source_accuracy", "test/target_accuracy"} <= {name for part in tested for name in part}
    probabilities = torch.cat(bare.predict(module, digits.target.test_dataloader()))
    assert probabilities.shape == (37, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(37))


def test_the_paper_recipe_is_accepted_and_saved(tmp_path):
    module = DANNModule(**PAPER)
    other = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    other.fit(module, pairs())
    other.save_checkpoint(tmp_path / "dann.ckpt")
    loaded = DANNModule.load_from_checkpoint(tmp_path / "dann.ckpt", weights_only=True).eval()
    images = torch.rand(2, 3, 28, 28)
    assert torch.equal(loaded(images), module.eval()(images))
    assert loaded.average is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lr": -1.0}, "lr is not"),
        ({"dropout": 1.0}, "dropout is"),
        ({"ema_decay": 1.5}, "ema_decay"),
        (
            {"network": "papers"},
            "network is paper, modern, or a backbone and its layer .*; got 'papers'",
        ),
        ({"lambda_schedule": "gannin"}, "lambda_schedule is ganin, constant, linear or off"),
        ({"optimizer": "adamw"}, "optimizer is adam or sgd"),
    ],
)
def test_bad_settings_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        DANNModule(**flags)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """The same steps, images, lambda and scores."""
    write_mnist(tmp_path, train=240, test=30)
    worker = TESTS / "ddp_dann.py"
    for processes in (1, 2):
        command = [sys.executable, str(worker), str(tmp_path), str(processes), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    names = ("1_0", "2_0", "2_1")
    alone, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in names)
    assert first["strength"] == second["strength"] == alone["strength"]
    assert alone["strength"] == pytest.approx([ganin(step / 22) for step in range(22)], abs=1e-6)
    for domain, seen in alone["seen"].items():
        both = torch.stack([first["seen"][domain], second["seen"][domain]], 2).flatten(1)
        assert torch.equal(both, seen)
    assert alone["scores"].keys() == first["scores"].keys()
    for name, value in alone["scores"].items():
        assert first["scores"][name] == second["scores"][name] == pytest.approx(value, rel=1e-3, abs=1e-4)
    for name, value in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-4)
    # BatchNorm: all processes are scored with the statistics of the first, which the checkpoint holds
    normalised = DANNModule(network="paper", dropout=0.0, domain_width=10)
    normalised.load_state_dict(first["normalised"]["weights"])
    digits = MNISTToMNISTMDataModule(tmp_path, batch_size=20, image_size=28)
    scores = quiet_trainer().validate(normalised, digits, verbose=False)
    for name, value in {name: value for part in scores for name, value in part.items()}.items():
        for rank in (first, second):
            assert rank["normalised"]["scores"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_images_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"images of 3 x 28 x 28 wanted, got 3 x 32 x 32; .*image_size=28"):
        DANNModule()(torch.rand(2, 3, 32, 32))


def test_weights_of_a_version_without_statistics_of_the_source_load():
    module = DANNModule(**SMALL)
    old = {name: value for name, value in module.state_dict().items() if "source_" not in name.split(".")[-1]}
    assert len(old) < len(module.state_dict())
    DANNModule(**SMALL).load_state_dict(old)


def test_large_images_go_through_a_few_at_once(monkeypatch):
    module, seen = DANNModule(image_size=32).eval(), []
    images = torch.rand(7, 3, 32, 32)
    alone = module.outputs([images])
    monkeypatch.setattr(evaluation, "PIXELS_AT_ONCE", 2 * 32 * 32)
    module.evaluated.classifier.register_forward_hook(lambda *given: seen.append(len(given[1][0])))
    for found, whole in zip(module.outputs([images]), alone, strict=True):
        torch.testing.assert_close(found, whole)
    assert seen == [2, 2, 2, 1]

"""Modules in a notebook: batches in any form, and every flag of Lightning's trainer."""

import lightning
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from rdfia.adaptation.dann import DANNModule
from rdfia.common.batches import domains_of, images_and_labels, images_of, labels_of
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.transfer.fine_tune import FineTuneModule
from rdfia.transfer.svm_module import FeatureExtractorSVM

FORMS = {
    "pair": lambda images, labels: (images, labels),
    "dict": lambda images, labels: {"pixel_values": images, "label": labels},
    "more": lambda images, labels: (images, labels, torch.zeros(1)),
}
WITHOUT = {
    "images": lambda images, labels: images,
    "alone": lambda images, labels: (images,),
    "dict": lambda images, labels: {"image": images},
}


class Colours(Dataset):
    """Images whose brightest channel, or half, tells the class."""

    def __init__(self, form, channels=3, size=28, count=24):
        self.form, self.channels, self.size, self.count = form, channels, size, count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        image = torch.rand(
            self.channels, self.size, self.size, generator=torch.Generator().manual_seed(number)
        )
        image[number % 2 % self.channels] = image[number % 2 % self.channels] / 2 + 0.5
        if self.channels == 1 and number % 2:
            image[:, : self.size // 2] /= 2
        return self.form(image, number % 2)


def loader(form, **shape):
    return DataLoader(Colours(form, **shape), batch_size=4)


def trainer(tmp_path, **flags):
    usual = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": tmp_path, "logger": False}
    usual |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    if flags.get("barebones"):
        usual = {"max_epochs": 1, "accelerator": "cpu"}
    return lightning.Trainer(**usual | flags)


def svm():
    return FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire2"], data_dir="sample", c=1.0)


def fine_tuning():
    options = {"backbone": "squeezenet1_1", "layer": "fire2", "data_dir": "sample", "image_size": 32}
    return FineTuneModule(**options, classes=2)


def adaptation():
    return DANNModule(classes=2, image_size=28)


def generation():
    return GANModule(generator_features=4, discriminator_features=4, latent_dim=8, groups=2)


def conditional():
    return cGANModule(generator_features=4, discriminator_features=4, latent_dim=8, classes=2)


def loaders_of(make, form, other=None):
    """Return training and validation loaders for a module."""
    if make is adaptation:
        target = loader(other or form)
        return {"source": loader(form), "target": target}, [loader(form), target]
    if make in (generation, conditional):
        return loader(form, channels=1, size=32), loader(form, channels=1, size=32)
    return loader(form, size=32), loader(form, size=32)


MODULES = [svm, fine_tuning, adaptation, generation, conditional]


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("form", FORMS)
def test_labelled_batches_of_any_form(make, form, tmp_path):
    train, val = loaders_of(make, FORMS[form])
    flags = {"limit_train_batches": 2, "limit_val_batches": 2} if make is not svm else {}
    work = trainer(tmp_path, **flags)
    work.fit(make(), train, val)
    assert any(name.startswith("val/") for name in work.callback_metrics)


@pytest.mark.parametrize("form", WITHOUT)
def test_images_without_labels_are_enough_where_none_are_needed(form, tmp_path):
    without = WITHOUT[form]
    train, val = loaders_of(generation, without)
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=2).fit(generation(), train, val)
    train, val = loaders_of(adaptation, FORMS["pair"], other=without)
    work = trainer(tmp_path, limit_train_batches=2)
    module = adaptation()
    work.fit(module, train, val)
    assert "val/target_entropy" in work.callback_metrics
    assert "val/target_accuracy" not in work.callback_metrics
    assert len(work.predict(module, loader(without))) == 6
    for make in (svm, fine_tuning, conditional):
        train, val = loaders_of(make, without)
        with pytest.raises(ValueError, match=r"labels.* the batch has none; give .images, labels"):
            trainer(tmp_path).fit(make(), train)


@pytest.mark.parametrize("kind", ["dict", "list", "combined", "cycled"])
def test_two_loaders_in_any_form(kind, tmp_path):
    source, target = loader(FORMS["pair"]), loader(WITHOUT["images"], count=12)
    loaders = {
        "dict": {"source": source, "target": target},
        "list": [source, target],
        "combined": CombinedLoader({"source": source, "target": target}, "min_size"),
        "cycled": CombinedLoader([source, target], "max_size_cycle"),
    }[kind]
    trainer(tmp_path).fit(adaptation(), loaders)
    with pytest.raises(ValueError, match="batches of source and target are needed"):
        trainer(tmp_path).fit(adaptation(), source)
    trainer(tmp_path).fit(DANNModule(classes=2, adapt=False), source)


# What each flag does with modules that step by themselves: Lightning's own line says what to leave out.
MANUAL = (svm, generation, conditional)
REFUSED = {"accumulate_grad_batches": MANUAL, "gradient_clip_val": MANUAL}
FLAGS = {
    "overfit_batches": 2,
    "limit_train_batches": 0.5,
    "limit_val_batches": 1,
    "precision": "bf16-true",
    "accumulate_grad_batches": 2,
    "gradient_clip_val": 0.5,
    "num_sanity_val_steps": 2,
    "detect_anomaly": True,
    "barebones": True,
    "reload_dataloaders_every_n_epochs": 1,
    "deterministic": True,
    "max_steps": 4,
    "val_check_interval": 2,
    "check_val_every_n_epoch": 2,
    "inference_mode": False,
}


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize(
    ("flag", "value"), [*FLAGS.items(), ("precision", "64-true")], ids=lambda one: str(one)
)
def test_flags_of_the_trainer_work_or_are_refused_in_a_line(make, flag, value, tmp_path, request):
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    train, val = loaders_of(make, FORMS["pair"])
    work = trainer(tmp_path, **{flag: value})
    module = make()
    if make in REFUSED.get(flag, ()):
        with pytest.raises(MisconfigurationException, match=f"Remove `Trainer\\({flag}="):
            work.fit(module, train, val)
        return
    work.fit(module, train, val)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    assert all(weight.isfinite().all() for weight in weights)
    work.validate(module, val, verbose=False)


def test_forms_by_hand():
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    for form in FORMS.values():
        assert images_and_labels(form(images, labels))[1] is labels
    for form in WITHOUT.values():
        assert images_of(form(images, labels)) is images
        assert labels_of(form(images, labels)) is None
    with pytest.raises(ValueError, match="got depth, mask"):
        images_of({"depth": images, "mask": images})
    with pytest.raises(ValueError, match="got str"):
        images_of("images")
    assert set(domains_of([(images, labels), images])) == {"source", "target"}
    assert set(domains_of({"source": images})) == {"source"}
    assert set(domains_of((images, labels))) == {"source"}
    with pytest.raises(ValueError, match="a batch has source and target, got mnist, svhn"):
        domains_of({"mnist": images, "svhn": images})

"""The script of the conditional GAN, in process."""

import dataclasses
import json

import pytest
import torch

from rdfia.generation.cgan import cGANModule
from rdfia.generation.config import ConditionalGANArgs as Args
from rdfia.generation.digit_style import style_scores
from rdfia.generation.experiment import ConditionalExperiment, run_conditional


def small(tmp_path, **changes) -> Args:
    widths = {"generator_features": 4, "discriminator_features": 4, "latent_dim": 8}
    places = {"data_dir": tmp_path / "data", "output_dir": tmp_path / "runs"}
    return Args(**{"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", **widths, **places, **changes})


def test_a_dry_run_touches_everything_and_writes_nothing(tmp_path, mnist, capsys):
    results = run_conditional(small(tmp_path, fast_dev_run=True))
    assert 0 <= results["metrics"]["conditional_accuracy"]["mean"] <= 1
    assert "a dry run, nothing kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_a_table_of_both_kinds_of_discriminator(tmp_path, mnist):
    table = run_conditional(small(tmp_path, compare=("no-label-in-discriminator",)))
    folder = tmp_path / "runs" / "cgan"
    assert table == json.loads((folder / "results.json").read_text())
    assert table["technique"] == "cgan"
    for row in ("best", "no-label-in-discriminator"):
        for score in ("conditional_accuracy", "worst_accuracy", "diversity", "slant_correlation"):
            assert f"{row}/{score}" in table["metrics"]
        assert (folder / f"{row}_seed_0" / "figures" / "styles.png").exists()
        assert (folder / f"{row}_seed_0" / "figures" / "film.gif").exists()
    flags = json.loads((folder / "no-label-in-discriminator_seed_0" / "args.json").read_text())
    assert flags["label_in_discriminator"] is False


def test_flags_reach_the_module(tmp_path):
    module = ConditionalExperiment(
        small(tmp_path, conditioning="projection", latents="uniform", seed=2)
    ).build()
    assert module.discriminator.embedding.num_embeddings == 10
    assert (module.latents, module.seed, module.latent_dim) == ("uniform", 2, 8)
    module = ConditionalExperiment(small(tmp_path, label_in_discriminator=False)).build()
    assert module.discriminator.embedding is None
    assert module.hparams["conditioning"] == cGANModule().hparams["conditioning"] == "projection"
    module = ConditionalExperiment(small(tmp_path, preset="practical")).build()
    assert (module.hparams["conditioning"], module.upsampling) == ("one-hot", "transposed")
    with pytest.raises(ValueError, match="--seeds are at least 0"):
        dataclasses.replace(Args(), seeds=(-1,))


def test_one_style_for_each_latent_is_found(monkeypatch):
    """A generator whose bars lean as the latent says, with each digit at a place of its own."""
    module = cGANModule(latent_dim=3, generator_features=4, discriminator_features=4)

    def leaning(latents, digits):
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        lean = latents[:, 0, None, None] / 10
        ink = (2 - (x - 16 - digits[:, None, None] / 5 + lean * (y - 16)).abs()).clamp(0, 1)
        return ink[:, None]

    monkeypatch.setattr(module, "forward", leaning)
    scores = style_scores(module, count=200)
    assert scores["slant_correlation"] > 0.95
    assert abs(scores["slant_correlation_of_shuffled_pairs"]) < 0.2
    assert abs(scores["thickness_correlation_of_shuffled_pairs"]) < 0.2

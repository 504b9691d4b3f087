"""bfloat16 and float16 train as float32 does."""

import copy

import pytest
import torch
from conftest import half_precision, quiet_trainer
from test_gan import SMALL, some_batches

from rdfia.engine.runs import MetricsCSV
from rdfia.generation.gan import PRACTICAL, GANModule


def test_bf16_follows_float32(tmp_path):
    results = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        module = GANModule(**SMALL, generator_lr=2e-4, discriminator_lr=2e-4)
        history = MetricsCSV(tmp_path / precision)
        history.path.parent.mkdir()
        run = quiet_trainer(max_epochs=1, precision=precision, logger=history, log_every_n_steps=8)
        run.fit(module, some_batches(count=8))
        results[precision] = history.rows[7, "train"]
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    assert len(results["32-true"]) == 10  # losses, scores, rates, the accuracy; batch, step, epoch
    for name, value in results["32-true"].items():
        near = 1 / 16 if name.endswith("accuracy") else 0.02  # one of the last batch's 16 images
        assert results["bf16-mixed"][name] == pytest.approx(value, rel=0.05, abs=near), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_penalty_is_finite_in_half_precision(dtype):
    """BatchNorm's second derivative overflows there: at N(0, 0.02) its scale is 1/0.01, cubed 1e6."""
    torch.manual_seed(0)
    module = GANModule(**{**SMALL, **PRACTICAL, "discriminator_features": 8, "r1_weight": 1.0})
    before = copy.deepcopy(module.discriminator.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    precision = half_precision(dtype, scaler if dtype == torch.float16 else None)
    # One batch, with the penalty: a step with gradients that are not finite would be left out.
    quiet_trainer(max_epochs=1, limit_train_batches=1, plugins=[precision]).fit(module, some_batches())
    assert scaler.get_scale() == 256.0
    for name, value in module.discriminator.state_dict().items():
        assert value.isfinite().all(), name
    assert not torch.equal(before["last.weight"], module.discriminator.state_dict()["last.weight"])


def test_fp16_scaling_leaves_the_steps_right():
    """One scaler serves both optimizers: each backward must be followed by its own step."""

    def train(scaler):
        torch.manual_seed(0)
        module = GANModule(**SMALL)
        plugins = []
        if scaler is not None:
            from lightning.pytorch.plugins.precision import MixedPrecision

            plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
            plugins[0].autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)
        run = quiet_trainer(max_epochs=1, plugins=plugins)
        run.fit(module, some_batches(count=6))
        return module.state_dict()

    # It grows at each step: with two backwards before two steps, the second would be unscaled wrongly.
    scaled = train(torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1))
    plain = train(None)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value, rtol=1e-4, atol=1e-5)

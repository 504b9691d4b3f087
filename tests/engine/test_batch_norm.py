"""BatchNorm that processes share: two train the network that one does."""

import subprocess
import sys

import pytest
import torch
from conftest import TESTS
from torch import nn

from rdfia.common import batch_norm
from rdfia.common.batch_norm import ShareBatchNorm, shared_batch_norm


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the weights of each technique, by process: the one alone, then the two."""
    output = tmp_path_factory.mktemp("shared")
    for processes in (1, 2):
        command = [sys.executable, str(TESTS / "ddp_batch_norm.py"), str(processes), str(output)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
    return {
        name: [
            torch.load(output / f"{name}_{one}.pt", weights_only=True)
            for one in ("begun", "1_0", "2_0", "2_1")
        ]
        for name in ("dann", "gan")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dann", "gan"])
def test_two_processes_train_the_network_that_one_does(trained, name):
    begun, alone, first, second = trained[name]
    assert sum(key.endswith(("running_var", "source_var")) for key in alone) > 3
    far = moved = 0.0
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        if value.is_floating_point() and "centres" not in key:
            far += float((first[key] - value).square().sum())
            moved += float((value - begun[key]).square().sum())
    # Adam takes a step of full length along a gradient that is rounding and nothing else.
    assert moved > 1
    assert (far / moved) ** 0.5 < (1e-4 if name == "dann" else 0.02)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 4)])
def test_of_one_process_it_is_torchs(monkeypatch, shape):
    monkeypatch.setattr(batch_norm.distributed, "all_reduce", lambda tensor: None)
    torch.manual_seed(0)
    usual = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3)
    nn.init.normal_(usual.weight)
    nn.init.normal_(usual.bias)
    mean, var = usual.running_mean.clone(), usual.running_var.clone()
    x = (5 * torch.randn(shape) + 100).requires_grad_()
    expected = usual(x)
    found = shared_batch_norm(x, mean, var, usual.weight, usual.bias, 0.1, usual.eps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, usual.running_mean)
    torch.testing.assert_close(var, usual.running_var)
    weights = torch.randn(shape)
    for given in (x, usual.weight, usual.bias):
        first, second = (torch.autograd.grad((out * weights).sum(), given, retain_graph=True)[0]
                         for out in (expected, found))  # fmt: skip
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4)
    half = shared_batch_norm(x.bfloat16(), mean, var, usual.weight, usual.bias, 0.1, usual.eps)
    assert half.dtype == torch.bfloat16


def test_layers_share_and_stop_sharing():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False))
    names = list(model.state_dict())
    shared = ShareBatchNorm().apply(model)
    assert isinstance(shared[1], batch_norm._Shared)
    assert isinstance(shared[1], nn.BatchNorm2d)
    assert type(shared[2]) is nn.BatchNorm2d  # there are no weights to scale by
    assert list(shared.state_dict()) == names
    shared(torch.rand(2, 1, 8, 8))  # alone, as usual
    assert type(ShareBatchNorm().revert(model)[1]) is nn.BatchNorm2d

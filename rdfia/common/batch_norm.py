"""BatchNorm over the batches of all processes: one GPU and eight train the same network.

Each process of a DDP run sees its share of a batch, and torch's BatchNorm normalises by that share alone: of
a batch of 64 on eight GPUs by 8 images. Torch's SyncBatchNorm is for GPUs only, and would forget the
statistics of two domains that `rdfia.adaptation.network` keeps.
"""

from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rdfia.common.parallel import place


class _OverProcesses(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs; again and again, as R1 needs."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _OverProcesses.apply(gradients[0])
        return total


def shared_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise by mean and variance over the batches of all processes, and move the running statistics.

    Args:
        x: (B, C) or (B, C, ...); processes may have batches of different lengths.
        running_mean: (C,), changed in place.
        running_var: (C,), changed in place.
        weight: (C,).
        bias: (C,).
        momentum: How far the running statistics move.
        eps: Added to the variance.
    """
    over = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    with torch.autocast(x.device.type, enabled=False):  # as torch's: statistics in float32
        exact = x if x.dtype == torch.float64 else x.float()
        number = torch.full((1,), x.numel() / x.shape[1], device=x.device, dtype=exact.dtype)
        sums = _OverProcesses.apply(torch.cat([exact.sum(over), number]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = exact - mean.view(shape)
        var = _OverProcesses.apply(centred.square().sum(over)) / count
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * count / (count - 1)).to(running_var), momentum)
        scale = weight.to(exact) * (var + eps).rsqrt()
        normalised: Tensor = centred * scale.view(shape) + bias.to(exact).view(shape)
        return normalised.to(x.dtype)


def counted_momentum(layer: _BatchNorm) -> float:
    """Count a batch of a layer and return how far its running statistics move: None is their plain mean."""
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    return 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum


class _Shared(_BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batches of all processes in training, else by the running statistics."""
        if not self.training or place()[1] == 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = counted_momentum(self)
        kept = (self.running_mean, self.running_var, self.weight, self.bias)
        return shared_batch_norm(x, *kept, momentum, self.eps)


class _Shared1d(_Shared, nn.BatchNorm1d):
    """For hidden units (B, F)."""


class _Shared2d(_Shared, nn.BatchNorm2d):
    """For maps (B, C, H, W)."""


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: _Shared1d, nn.BatchNorm2d: _Shared2d}


class ShareBatchNorm(LayerSync):
    """Lets each BatchNorm of a module share its statistics; names and numbers in checkpoints stay.

    A layer of another kind may have a flag ``shared`` and look after itself.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Let them share."""
        for layer in model.modules():
            if type(layer) in KINDS and getattr(layer, "affine", False) and layer.track_running_stats:
                layer.__class__ = KINDS[type(layer)]
            elif hasattr(type(layer), "shared"):
                layer.shared = True  # type: ignore[assignment] # a flag
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Let each normalise by itself again."""
        usual = {shared: plain for plain, shared in KINDS.items()}
        for layer in model.modules():
            if type(layer) in usual:
                layer.__class__ = usual[type(layer)]
            elif hasattr(type(layer), "shared"):
                layer.shared = False  # type: ignore[assignment] # a flag
        return model

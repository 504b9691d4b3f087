"""BatchNorm with running statistics of each of two domains.

Li et al., "Adaptive Batch Normalization for practical domain adaptation", 2018; Chang et al.,
"Domain-specific batch normalization for unsupervised domain adaptation", CVPR 2019.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.batch_norm import counted_momentum, shared_batch_norm
from rdfia.common.parallel import place


class DomainBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm with running statistics of the source beside the usual ones; weights and biases are shared.

    A network that is trained on passes of one domain each is normalised by that domain's batch, so that each
    domain is to be evaluated under statistics of its own.
    """

    source_mean: Tensor
    source_var: Tensor
    source_seen: Tensor

    shared = False  # over processes, see `rdfia.common.batch_norm`
    in_float32 = False  # as stacked ones must: their statistics are not those of half precision

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("source_mean", torch.zeros(width))
        self.register_buffer("source_var", torch.ones(width))
        self.register_buffer("source_seen", torch.tensor(False))  # else the usual statistics serve both
        self.of_source = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch in training, else by the running statistics of the domain at hand."""
        if self.in_float32 and x.dtype in (torch.bfloat16, torch.float16):
            return self.forward(x.float()).to(x.dtype)
        if not self.of_source and not (self.shared and self.training):
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean, self.running_var
        momentum = 0.1 if self.momentum is None else self.momentum
        if self.of_source:
            mean, var = self.source_mean, self.source_var
            if self.training:
                self.source_seen.fill_(True)
            else:
                mean = torch.where(self.source_seen, mean, self.running_mean)
                var = torch.where(self.source_seen, var, self.running_var)
        else:
            momentum = counted_momentum(self)
        if self.shared and self.training and place()[1] > 1:
            return shared_batch_norm(x, mean, var, self.weight, self.bias, momentum, self.eps)
        return functional.batch_norm(x, mean, var, self.weight, self.bias, self.training, momentum, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Load weights of a version without statistics of the source, too: it never saw any."""
        for name in ("source_mean", "source_var", "source_seen"):
            state_dict.setdefault(prefix + name, getattr(self, name).detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def keep_as_source(self) -> None:
        """Make the usual statistics those of the source, too."""
        assert self.running_mean is not None
        assert self.running_var is not None
        self.source_mean.copy_(self.running_mean)
        self.source_var.copy_(self.running_var)
        self.source_seen.fill_(True)


class DomainBatchNorm1d(DomainBatchNorm, nn.BatchNorm1d):
    """For hidden units (B, F)."""


class DomainBatchNorm2d(DomainBatchNorm, nn.BatchNorm2d):
    """For maps (B, C, H, W)."""


def with_domain_statistics(module: nn.Module) -> nn.Module:
    """Let each BatchNorm of a module keep running statistics of the source too, in place."""
    for name, layer in module.named_children():
        with_domain_statistics(layer)
        if isinstance(layer, DomainBatchNorm) or not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        if not (layer.affine and layer.track_running_stats):
            raise ValueError(f"BatchNorm {name} is without weights or running statistics: leave those on")
        kind = DomainBatchNorm1d if isinstance(layer, nn.BatchNorm1d) else DomainBatchNorm2d
        own = kind(layer.num_features)
        own.load_state_dict(layer.state_dict())
        own.eps, own.momentum = layer.eps, layer.momentum
        setattr(module, name, own)
    return module


@contextmanager
def of_source(network: nn.Module, source: bool = True) -> Iterator[None]:
    """Say that what passes is of the source: BatchNorm keeps, and evaluates by, its statistics apart.

    Where no pass in training was of the source, as in a network that never saw two domains, nothing differs.

    Args:
        network: A `DomainAdversarialNetwork`, or a part of it.
        source: False for the target, whose statistics are the usual ones.
    """
    network = getattr(network, "template", network)  # of stacked ones
    norms = [layer for layer in network.modules() if isinstance(layer, DomainBatchNorm)]
    for norm in norms:
        norm.of_source = source
    try:
        yield
    finally:
        for norm in norms:
            norm.of_source = False


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Let BatchNorm's statistics be those of target images, without labels, and keep the old as the source's.

    Li et al., "Adaptive Batch Normalization for practical domain adaptation", 2018: nothing else is adapted,
    so that it tells what the statistics alone give.

    Args:
        network: A `DomainAdversarialNetwork`, trained on the source.
        batches: Images of the target (B, C, H, H) in [0, 1]; the mean over the batches counts.
    """
    norms = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, DomainBatchNorm) and not name.startswith("domain_classifier")
    ]
    was_training = network.training
    network.eval()  # without dropout
    for norm in norms:
        norm.keep_as_source()
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches
        norm.train()
    for images in batches:
        network(images)
    for norm in norms:
        norm.momentum = 0.1
    network.train(was_training)


@contextmanager
def freeze_running_stats(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch, and leave the running statistics, for evaluation, as they are."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum

"""The networks of DANN: features, classifier, classifier of domains."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.batch_norm import counted_momentum, shared_batch_norm
from rdfia.common.checks import check_images, looks_are_free
from rdfia.common.parallel import place


class _DomainBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm with running statistics of the source beside the usual ones; weights and biases are shared.

    A network that is trained on passes of one domain each is normalised by that domain's batch, so that each
    domain is to be evaluated under statistics of its own: Li et al., "Adaptive Batch Normalization", 2018;
    Chang et al., "Domain-Specific Batch Normalization", CVPR 2019.
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


class _DomainBatchNorm1d(_DomainBatchNorm, nn.BatchNorm1d):
    """For hidden units (B, F)."""


class _DomainBatchNorm2d(_DomainBatchNorm, nn.BatchNorm2d):
    """For maps (B, C, H, W)."""


def with_domain_statistics(module: nn.Module) -> nn.Module:
    """Let each BatchNorm of a module keep running statistics of the source too, in place."""
    for name, layer in module.named_children():
        with_domain_statistics(layer)
        if isinstance(layer, _DomainBatchNorm) or not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        if not (layer.affine and layer.track_running_stats):
            raise ValueError(f"BatchNorm {name} is without weights or running statistics: leave those on")
        kind = _DomainBatchNorm1d if isinstance(layer, nn.BatchNorm1d) else _DomainBatchNorm2d
        own = kind(layer.num_features)
        own.load_state_dict(layer.state_dict())
        own.eps, own.momentum = layer.eps, layer.momentum
        setattr(module, name, own)
    return module


def width_of(features: nn.Module, channels: int, image_size: int) -> int:
    """Return how many features (B, F) a module makes of images (B, channels, image_size, image_size).

    Raises:
        ValueError: It does not take such images, or what it makes is something else.
    """
    was_training = features.training
    try:
        with torch.no_grad():
            made = features.eval()(torch.zeros(1, channels, image_size, image_size))
    except RuntimeError as error:
        shape = f"(B, {channels}, {image_size}, {image_size})"
        raise ValueError(f"the network does not take images {shape}: {error}") from error
    finally:
        features.train(was_training)
    if not isinstance(made, Tensor) or made.ndim != 2:
        seen = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"the network makes features (B, F), got {seen}")
    return made.shape[1]


def standardized(images: Tensor) -> Tensor:
    """Return images (B, C, H, W), each with mean 0 and standard deviation 1 over all of its values."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    return (images - mean) / (deviation + 1e-3)


class DomainAdversarialNetwork(nn.Module):
    """Features of small images, a classifier and a domain classifier on them.

    ``paper`` is the MNIST network of Ganin et al.: two 5x5 convolutions of 32 and 48 channels with pooling,
    a classifier with two hidden layers of 100, a 100-1 domain classifier. ``modern`` has five 3x3
    convolutions in place of the two, and adapts better: its features are smaller, deeper and leave the domain
    classifier less to go by.

    Args:
        trunk: ``paper`` or ``modern``; or a module of your own that maps images (B, C, H, H), scaled as
            ``scaling`` says, to features (B, F) or to maps, which are flattened. Its BatchNorm keeps
            statistics of each domain; ``batch_norm``, ``dropout`` and ``initialization`` are of the heads.
        classes: Their number.
        channels: Of the images.
        image_size: Their side, at least 8.
        scaling: Of the images, the same in both domains: ``none`` keeps [0, 1], ``symmetric`` is [-1, 1],
            ``standardized`` takes each image's own mean and deviation, which undoes much of the shift.
        batch_norm: After each layer but the last. A pass that holds one domain only is normalised by that
            domain's statistics, in evaluation too: see `of_source`.
        dropout: Of whole maps after the second stage, and of the classifier's hidden units: no map may carry
            the domain alone, so the domain classifier does not win early.
        domain_width: Hidden units of the domain classifier.
        initialization: ``pytorch``, or ``he`` (He et al. 2015): larger weights, a faster start under SGD.
    """

    def __init__(
        self,
        trunk: Literal["paper", "modern"] | nn.Module = "modern",
        *,
        classes: int = 10,
        channels: int = 3,
        image_size: int = 28,
        scaling: Literal["none", "symmetric", "standardized"] = "standardized",
        batch_norm: bool = True,
        dropout: float = 0.5,
        domain_width: int = 100,
        initialization: Literal["pytorch", "he"] = "pytorch",
    ) -> None:
        super().__init__()
        if classes < 2 or channels < 1 or image_size < 8:
            raise ValueError(
                "there are at least 2 classes, 1 channel and 8 pixels on a side, got "
                f"{classes}, {channels} and {image_size}"
            )
        self.scaling, self.shape = scaling, (channels, image_size, image_size)

        def stage(inputs: int, outputs: int, size: int, *, pool: bool = False) -> list[nn.Module]:
            # BatchNorm has a bias of its own; after pooling there is a quarter of the work left for it.
            layers: list[nn.Module] = [
                nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=not batch_norm)
            ]
            layers += [nn.MaxPool2d(2)] if pool else []
            return [*layers, *([_DomainBatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]

        def hidden(inputs: int, outputs: int) -> list[nn.Module]:
            layer = nn.Linear(inputs, outputs, bias=not batch_norm)
            return [layer, *([_DomainBatchNorm1d(outputs)] if batch_norm else []), nn.ReLU()]

        if isinstance(trunk, nn.Module):
            self.features = nn.Sequential(with_domain_statistics(trunk), nn.Flatten())
            width = width_of(self.features, channels, image_size)
        elif trunk == "paper":
            width = 48 * (image_size // 4) ** 2
            self.features = nn.Sequential(
                *stage(channels, 32, 5, pool=True),
                *stage(32, 48, 5, pool=True),
                nn.Dropout2d(dropout),
                nn.Flatten(),
            )
        else:
            width = 64 * (image_size // 8) ** 2
            self.features = nn.Sequential(
                *stage(channels, 32, 3),
                *stage(32, 32, 3, pool=True),
                nn.Dropout2d(dropout / 2),
                *stage(32, 64, 3),
                *stage(64, 64, 3, pool=True),
                nn.Dropout2d(dropout),
                *stage(64, 64, 3),
                nn.AvgPool2d(2),
                nn.Flatten(),
            )
        self.classifier = nn.Sequential(
            *hidden(width, 100), nn.Dropout(dropout), *hidden(100, 100), nn.Linear(100, classes)
        )
        self.domain_classifier = nn.Sequential(*hidden(width, domain_width), nn.Linear(domain_width, 1))
        if initialization == "he":
            own = (self.classifier, self.domain_classifier) if isinstance(trunk, nn.Module) else (self,)
            for layer in (layer for part in own for layer in part.modules()):
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # convolutions are faster with the channels last
        self.channels_last = True

    def be_stackable(self) -> None:
        """Leave out what networks that are stacked cannot do: see `rdfia.common.stacked`."""
        self.channels_last = False
        for layer in self.modules():
            if isinstance(layer, _DomainBatchNorm):
                layer.in_float32 = True

    def extract(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H) in [0, 1] to features (B, F).

        Raises:
            ValueError: They have another size.
        """
        if images.shape[1:] != self.shape:
            size, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], self.shape))
            channels, side, _ = self.shape
            mend = f"give the data module image_size={side}, and channels={channels} if it has a choice"
            raise ValueError(f"images of {wanted} wanted, got {size}; {mend}")
        # To look makes a GPU wait; `DANNModule` looks at first batches there.
        if looks_are_free(images):
            check_images(images)
        return self.extract_unchecked(images)

    def extract_unchecked(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H), near [0, 1], to features (B, F): noisy copies of images, say."""
        if self.scaling == "symmetric":
            images = images * 2 - 1
        elif self.scaling == "standardized":
            images = standardized(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.features(images)
        return features

    def tell_domain(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B,), large where they look like the target's."""
        logits: Tensor = self.domain_classifier(features)
        return logits[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H) in [0, 1] to class logits (B, classes)."""
        logits: Tensor = self.classifier(self.extract(images))
        return logits


@contextmanager
def of_source(network: nn.Module, source: bool = True) -> Iterator[None]:
    """Say that what passes is of the source: BatchNorm keeps, and evaluates by, its statistics apart.

    Where no pass in training was of the source, as in a network that never saw two domains, nothing differs.

    Args:
        network: A `DomainAdversarialNetwork`, or a part of it.
        source: False for the target, whose statistics are the usual ones.
    """
    network = getattr(network, "template", network)  # of stacked ones
    norms = [layer for layer in network.modules() if isinstance(layer, _DomainBatchNorm)]
    for norm in norms:
        norm.of_source = source
    try:
        yield
    finally:
        for norm in norms:
            norm.of_source = False


@torch.no_grad()
def reestimate_statistics(network: DomainAdversarialNetwork, batches: Iterable[Tensor]) -> None:
    """Let BatchNorm's statistics be those of target images, without labels, and keep the old as the source's.

    Li et al., "Adaptive Batch Normalization for practical domain adaptation", 2018: nothing else is adapted,
    so that it tells what the statistics alone give.

    Args:
        network: Trained on the source.
        batches: Images of the target (B, C, H, H) in [0, 1]; the mean over the batches counts.
    """
    used = [*network.features.modules(), *network.classifier.modules()]
    norms = [layer for layer in used if isinstance(layer, _DomainBatchNorm)]
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

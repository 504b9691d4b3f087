"""DAN and JAN: a kernel's mean over each domain is made the same (maximum mean discrepancy).

Long et al., "Learning transferable features with deep adaptation networks", ICML 2015 (DAN: of the features);
Long et al., "Deep transfer learning with joint adaptation networks", ICML 2017 (JAN: of features and
predictions together).
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rdfia.adaptation.module import AdaptationModule, Seen

# Widths of the Gaussians, times the mean squared distance of the batch.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def gaussian_kernel(values: Tensor, widths: Sequence[float] = WIDTHS) -> Tensor:
    """Return the mean of Gaussians of the squared distances of values (N, F) to each other: (N, N).

    Args:
        values: (N, F).
        widths: Of each Gaussian exp(-d² / (w s)), where s is the mean squared distance of two of the values,
            through which no gradient flows.
    """
    squares = values.square().sum(1)
    distances = (squares[:, None] + squares - 2 * values @ values.T).clamp(min=0)
    count = len(values)
    scale = distances.detach().sum() / (count * (count - 1))
    found = [torch.exp(-distances / (width * scale + 1e-12)) for width in widths]
    return torch.stack(found).mean(0)


def discrepancy(kernel: Tensor, count: int) -> Tensor:
    """Return the squared maximum mean discrepancy, without the bias of each item's kernel with itself.

    It can be negative.

    Args:
        kernel: (N, N), of source and target items, in that order.
        count: Of the source's.
    """
    source, target, both = kernel[:count, :count], kernel[count:, count:], kernel[:count, count:]
    within = sum((part.sum() - part.trace()) / (len(part) * (len(part) - 1)) for part in (source, target))
    return within - 2 * both.mean()


def mmd_loss(source: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Return the discrepancy of several layers' values together: their kernels are multiplied.

    Args:
        source: Values of each layer, (B, F).
        target: Of the same layers, (B', F).
    """
    kernels = [
        gaussian_kernel(torch.cat([ours.float(), theirs.float()]))
        for ours, theirs in zip(source, target, strict=True)
    ]
    # Not torch.prod, whose gradient looks for noughts and makes a GPU wait.
    return discrepancy(functools.reduce(torch.mul, kernels), len(source[0]))


class DANModule(AdaptationModule):
    """DAN, with a fixed mean of Gaussian kernels on the features; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> DANModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def layers(self, seen: Seen) -> tuple[Tensor, ...]:
        """Return the values whose distributions are compared."""
        return (seen.features,)

    def adaptation_loss(self, source: Seen, target: Seen) -> Tensor:
        """Return the discrepancy of the domains."""
        return mmd_loss(self.layers(source), self.layers(target))


class JANModule(DANModule):
    """JAN: features and class probabilities together; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> JANModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def layers(self, seen: Seen) -> tuple[Tensor, ...]:
        """Return features and probabilities."""
        return seen.features, seen.logits.float().softmax(1)

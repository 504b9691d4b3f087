"""A classifier that is looked at and left as it was: weights, gradients, mode, hooks.

Any module that maps images (B, C, H, W) in [0, 1] to logits (B, K) will do, also one that gives a tuple that
begins with them, or something with ``logits`` (as Hugging Face's models do), works in place on its input, or
computes in half precision. One that wants normalised images goes into `rdfia.common.checks.Normalized`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rdfia.common.checks import check_classes
from rdfia.common.progress import progress

# Maps images (B, C, H, W) in [0, 1] to logits (B, K).
Ask = Callable[[Tensor], Tensor]


def logits_of(output: Any) -> Tensor:
    """Return the logits (B, K) in what a classifier gave, in float32 or float64.

    Raises:
        ValueError: There are none.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
        if found is None:
            raise ValueError(f"the model gives {', '.join(map(str, output))}, wanted logits (B, K)")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list) and output:  # of which a loss may be the first
        found = next((one for one in output if isinstance(one, Tensor) and one.ndim == 2), output[0])
    if not isinstance(found, Tensor):
        raise ValueError(f"the model gives {type(output).__name__}, wanted logits (B, K) as a tensor")
    if found.ndim != 2:
        raise ValueError(f"the model gives {tuple(found.shape)}, wanted logits (B, K)")
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[Ask]:
    """Put a model in eval mode and its weights out of autograd's sight; give all back afterwards.

    Yields what maps images (B, C, H, W) in [0, 1] to the model's logits (B, K).
    """
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad) for weight in model.parameters()]
    dtypes = [weight.dtype for weight, _ in weights if weight.is_floating_point()]

    def ask(images: Tensor) -> Tensor:
        kind = images.dtype
        if dtypes and not torch.is_autocast_enabled(images.device.type):
            kind = dtypes[0]
        # A copy, whatever its format: the first layer may work in place.
        return logits_of(model(images.to(kind, copy=True)))

    try:
        model.eval()
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield ask
    finally:
        for module, training in modes:
            module.training = training
        for weight, required in weights:
            weight.requires_grad_(required)


@torch.no_grad()
def all_logits(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Return the logits (N, K) of images (N, C, H, W), so many at a time."""
    with frozen_eval(model) as ask:
        parts = progress(torch.split(images, batch_size), "batches")
        return torch.cat([ask(part) for part in parts])


def predict(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Return the classes (N,) that a model takes images (N, C, H, W) for."""
    return all_logits(model, images, batch_size).argmax(1)


def own_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Return of logits (B, K) those of one class each, (B,).

    Raises:
        ValueError: There is no such class.
    """
    check_classes(classes, logits.shape[1])
    return logits.gather(1, classes[:, None])[:, 0]


def class_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return how the logits of classes change with each pixel, (B, C, H, W).

    Logits and not probabilities: those of a sure classifier hardly change.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1], or near: a noisy copy.
        labels: (B,), the classes asked about: the true, the predicted or any others.
    """
    with frozen_eval(model) as ask, torch.enable_grad():
        images = images.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(own_logits(ask(images), labels).sum(), images)
    return gradients


def l2_norms(images: Tensor) -> Tensor:
    """Return the L2 norm of each image or change (B, C, H, W), as (B, 1, 1, 1)."""
    norms: Tensor = images.flatten(1).norm(dim=1)[:, None, None, None]
    return norms


def find_module(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    """Return a layer of a model: itself, by its path, or by a name that the model knows.

    Raises:
        ValueError: There is none of that name; the message says which there are.
    """
    if isinstance(layer, nn.Module):
        return layer
    find: Any = getattr(model, "find_layer", None)
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if find is None and layer not in modules:
        names = [name for name in modules if name]
        more = f" … {names[-1]}" if len(names) > 8 else ""
        raise ValueError(f"the model has no layer {layer!r}; it has {', '.join(names[:8])}{more}")
    found: nn.Module = modules[layer] if find is None else find(layer)
    return found

"""Float32 that is float32 on a GPU, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Torch has two ways to say it, and refuses to read the one where the other was used.
Before = tuple[bool, str] | tuple[str, str]


def _before() -> Before:
    try:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        convolutions: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        return convolutions, torch.backends.cuda.matmul.fp32_precision


def _set(convolutions: bool | str, products: str) -> None:
    if isinstance(convolutions, str):
        torch.backends.cudnn.conv.fp32_precision = convolutions  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = products
    else:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def allow_tf32(allowed: bool) -> None:
    """Say whether a GPU may round the factors of float32 products to TF32, ten bits of mantissa.

    By default torch's convolutions do, and a map of saliency differs from a CPU's in a fifth of its pixels.
    """
    if isinstance(_before()[0], str):
        _set(*(["tf32"] * 2 if allowed else ["ieee"] * 2))
    else:
        _set(allowed, "high" if allowed else "highest")


@contextmanager
def exact() -> Iterator[None]:
    """Let float32 be float32 within, whatever is allowed outside: for scores, penalties, maps and attacks."""
    before = _before()
    allow_tf32(False)
    try:
        yield
    finally:
        _set(*before)

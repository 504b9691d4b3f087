"""Float32 that is float32 on a GPU, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def allow_tf32(allowed: bool) -> None:
    """Say whether a GPU may round the factors of float32 products to TF32, ten bits of mantissa.

    By default torch's convolutions do, and a map of saliency differs from a CPU's in a fifth of its pixels.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def exact() -> Iterator[None]:
    """Let float32 be float32 within, whatever is allowed outside: for scores, penalties, maps and attacks."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(False)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before

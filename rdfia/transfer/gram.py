"""Inner products of features: the Gram matrix of all images, scaled, and its principal components."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from rdfia.common.exact import exact
from rdfia.common.parallel import place
from rdfia.common.progress import progress

# The least part of their squared length by which features must differ: what float32 keeps, squared.
DISTINCT = 1e-13
# The features (B, d) of some images, by their indices; ``__getitem__`` of a tensor (N, d) is such a function.
Features = Callable[[slice | Tensor], Tensor]


@exact()
def gram_matrix(
    features: Features, count: int, *, held: int | None = None, streamed: int = 256, fresh: bool = False
) -> Tensor:
    """Return the inner products of all images, (count, count) float64.

    Features of a large common part, such as a mean of 1000 and a deviation of 1, do not lose what tells them
    apart: they are multiplied less their mean, in float32, and what that leaves out is added in float64. (Not
    so bfloat16, which cannot hold such features in the first place.)

    A block of images is held in memory while the images after it pass by; then the next block. With n blocks
    features are computed (n + 1) / 2 times, and never more than ``held + streamed`` images' at once.

    Where there are several processes all must ask for the same: each multiplies every so many parts of the
    matrix, and all get all of it.

    Args:
        features: Gives the features of some images, float32 or bfloat16.
        count: Number of images.
        held: Images in a block, all by default.
        streamed: Images that pass by at a time.
        fresh: What ``features`` gives is new each time, and may be changed in place, which saves a copy.

    Raises:
        ValueError: A feature is not finite.
    """
    gram = torch.zeros(count, count, dtype=torch.float64)
    along = torch.zeros(count, dtype=torch.float64)  # of what is left of the features, with the shift
    shift: Tensor | None = None
    held = held or count
    rank, world_size = place()

    def shifted(rows: slice) -> Tensor:
        """Return features of some images less the shift: the mean of the first ones, which is near all."""
        nonlocal shift
        values = features(rows)
        if values.dtype == torch.bfloat16:
            return values
        if shift is None:
            mean = values[:256].double().mean(0).float()
            shift = torch.where(mean.isfinite(), mean, 0.0)  # what is not finite is named where it counts
        values = values.sub_(shift) if fresh and values.dtype == torch.float32 else values.float() - shift
        along[rows] = 0.0
        for part, own in zip(values.split(4096, 1), shift.split(4096), strict=True):
            along[rows] += (part.double() @ own.double()).cpu()
        return values

    for start in range(0, count, held):
        block = slice(start, min(start + held, count))
        inside = shifted(block)
        parts = range(0, len(inside), 512)  # to leave out what symmetry gives
        for offset in parts[rank::world_size]:
            rows = slice(start + offset, min(start + offset + 512, block.stop))
            columns = slice(rows.start, block.stop)
            _fill(gram, rows, columns, inside[offset : offset + 512], inside[offset:])
        for first in progress(
            range(block.stop, count, streamed), f"features beside images {start:,} to {block.stop:,}"
        ):
            passing = slice(first, min(first + streamed, count))
            beside = shifted(passing)
            if first // streamed % world_size == rank:
                _fill(gram, block, passing, inside, beside)
    if world_size > 1:
        gram = _sum_over_processes(gram)
    # All processes find it together: one that raised by itself would leave the others waiting. What is
    # infinite between two images is so between one and itself.
    if not gram.diagonal().isfinite().all():
        raise ValueError("a feature is infinite or not a number")
    if shift is None:
        return gram
    # (x + s)(y + s) = xy + xs + ys + ss, of features less the shift.
    gram += along[:, None]
    gram += along[None, :]
    gram += shift.double().square().sum().cpu()
    return gram


def _sum_over_processes(gram: Tensor, rows: int = 1024) -> Tensor:
    """Return the sum of what processes have filled in, each its parts; some rows at a time go to a GPU."""
    on_gpu = distributed.get_backend() == "nccl"
    for part in gram.split(rows):
        whole = part.cuda() if on_gpu else part
        distributed.all_reduce(whole)
        part.copy_(whole)
    return gram


def _fill(gram: Tensor, rows: slice, columns: slice, left: Tensor, right: Tensor) -> None:
    """Write the inner products of two blocks of images, and their mirror image."""
    products = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    # A slice of a few thousand features is summed in float32, the slices in float64.
    pairs = zip(left.split(4096, 1), right.split(4096, 1), strict=True)
    # Within a Trainer with bf16-mixed, autocast would round the products.
    with torch.autocast(left.device.type, enabled=False), _exact_bfloat16(left.dtype == torch.bfloat16):
        for a, b in pairs:
            products += a.float() @ b.float().T
    gram[rows, columns] = products.cpu()
    gram[columns, rows] = products.T.cpu()


@contextmanager
def _exact_bfloat16(on: bool) -> Iterator[None]:
    """Let the CPU multiply as bfloat16 and sum in float32: nothing is lost where the factors are bfloat16."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if on else before
    try:
        yield
    finally:
        settings.fp32_precision = before


def standard_scale(features: Features, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (d,) of features on images ``train``, float64; inf if constant."""
    total, squares = torch.zeros(2, 1, dtype=torch.float64)
    # float64: a rounded mean would be squared into the Gram matrix
    for indices in train.split(64):
        part = features(indices).double()
        total, squares = total.to(part.device) + part.sum(0), squares.to(part.device) + part.square().sum(0)
    mean = total / len(train)
    variance = squares / len(train) - mean.square()
    # What rounding leaves of a constant feature's variance is not scaled up to 1.
    varies = variance > 1e-12 * (1 + mean.square())
    return mean, torch.where(varies, variance.clamp(min=0).sqrt(), torch.inf)


def standardized(features: Features, train: Tensor) -> Features:
    """Return features with mean 0 and standard deviation 1 on images ``train``; constant ones become 0."""
    mean, std = (value.float() for value in standard_scale(features, train))
    return lambda indices: (features(indices).float() - mean).div_(std)


def signed_root(features: Tensor) -> Tensor:
    """Return the square roots of the absolute values, with the old signs (Perronnin et al., ECCV 2010)."""
    return features.abs().sqrt().copysign(features)


def unit_length(gram: Tensor) -> Tensor:
    """Return the Gram matrix (N, N) of the features divided by their length."""
    length = gram.diagonal().clamp(min=1e-30).sqrt()
    return gram / length[:, None] / length[None, :]


def principal_components(gram: Tensor, train: Tensor, count: int) -> Tensor:
    """Return the first principal components (N, count) float64 of all images, fitted on the training images.

    Args:
        gram: (N, N), of features that need not be centred.
        train: Indices of the training images.
        count: At most one less than training images; those beyond the rank are 0.

    Raises:
        ValueError: There are not so many.
    """
    if not 1 <= count < len(train):
        raise ValueError(f"{len(train)} training images have 1 to {len(train) - 1} components, got {count}")
    # Inner products of centred features follow from those of the features.
    to_train = gram[:, train]
    inside = to_train[train]
    centred = to_train - to_train.mean(1, keepdim=True) - inside.mean(0) + inside.mean()
    values, vectors = torch.linalg.eigh(centred[train])
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    # Beyond the rank there is only rounding, which a division by next to nothing would blow up.
    scale = torch.where(values > 1e-6 * values[0], values.clamp(min=0).sqrt(), torch.inf)
    components: Tensor = centred @ vectors / scale
    return components

"""The exact linear SVM through the Gram matrix.

A linear SVM needs of its features only their inner products. One pass over the features, however wide, gives
the Gram matrix of all images; after that each C, each fold and each split costs a solve on that matrix alone,
and the answers are those of ``sklearn.svm.SVC(kernel="linear")`` on the features themselves.

    features = torch.rand(4485, 25088)                # or a function that computes those of some images
    gram = unit_length(gram_matrix(features.__getitem__, 4485))
    trial = try_svm(gram, labels, train, test)        # trial.accuracy, trial.c, trial.predictions
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC
from torch import Tensor, nn

from rdfia.common.progress import progress

# The least part of their squared length by which features must differ: what float32 keeps, squared.
DISTINCT = 1e-13
EXTENSIONS = 12  # half decades that the grid of C grows by at most
Scaling = Literal["raw", "l2", "power", "standard"]
# The features (B, d) of some images, by their places; ``__getitem__`` of a tensor (N, d) is such a function.
Features = Callable[[slice | Tensor], Tensor]


def gram_matrix(
    features: Features, count: int, *, held: int | None = None, streamed: int = 256, fresh: bool = False
) -> Tensor:
    """Return the inner products of all images, (count, count) float64.

    Features of a large common part, such as a mean of 1000 and a deviation of 1, do not lose what tells them
    apart: they are multiplied less their mean, in float32, and what that leaves out is added in float64. (Not
    so bfloat16, which cannot hold such features in the first place.)

    A block of images is held in memory while the images after it pass by; then the next block. With n blocks
    features are computed (n + 1) / 2 times, and never more than ``held + streamed`` images' at once.

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
        for offset in range(0, len(inside), 512):  # in parts, to leave out what symmetry gives
            rows = slice(start + offset, min(start + offset + 512, block.stop))
            columns = slice(rows.start, block.stop)
            _fill(gram, rows, columns, inside[offset : offset + 512], inside[offset:])
        for first in progress(
            range(block.stop, count, streamed), f"features beside images {start:,} to {block.stop:,}"
        ):
            passing = slice(first, min(first + streamed, count))
            _fill(gram, block, passing, inside, shifted(passing))
    if shift is None:
        return gram
    # (x + s)(y + s) = xy + xs + ys + ss, of features less the shift.
    gram += along[:, None]
    gram += along[None, :]
    gram += shift.double().square().sum().cpu()
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
    if not torch.isfinite(products).all():
        raise ValueError("a feature is infinite or not a number")
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
    for places in train.split(64):
        part = features(places).double()
        total, squares = total.to(part.device) + part.sum(0), squares.to(part.device) + part.square().sum(0)
    mean = total / len(train)
    variance = squares / len(train) - mean.square()
    # What rounding leaves of a constant feature's variance is not scaled up to 1.
    varies = variance > 1e-12 * (1 + mean.square())
    return mean, torch.where(varies, variance.clamp(min=0).sqrt(), torch.inf)


def standardized(features: Features, train: Tensor) -> Features:
    """Return features with mean 0 and standard deviation 1 on images ``train``; constant ones become 0."""
    mean, std = (value.float() for value in standard_scale(features, train))
    return lambda places: (features(places).float() - mean).div_(std)


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


def c_grid(gram: Tensor, count: int = 8) -> list[float]:
    """Return values of C from 0.03 to 100 in half decades, in units of one over the mean squared length.

    The same grid then serves features of any scale. Of features with a large common part, which an SVM does
    not mind, the length says little: the grid goes on to 100 over the mean squared distance from the mean.

    Raises:
        ValueError: All features are 0, or what tells them apart is lost in the rounding of what they share.
    """
    length = gram.diagonal().mean().item()
    if not length > 0:
        raise ValueError("all features are 0 or not a number: there is nothing to tell classes apart by")
    apart = (gram.diagonal().mean() - gram.mean()).item()
    if not apart > DISTINCT * length:
        raise ValueError(
            f"features differ by {max(apart, 0.0) / length:.1g} of their squared length, less than their "
            "float32 values keep of it; subtract their mean first, as scaling standard does"
        )
    count += int(2 * math.log10(length / apart))
    return [10 ** (-1.5 + 0.5 * step) / length for step in range(count)]


class PrecomputedSVM:
    """A linear SVM that was fitted on a Gram matrix.

    Args:
        machines: Fitted ``SVC(kernel="precomputed")``: one, which votes between all pairs of classes, or one
            for each class against the rest.
        classes: Their labels.
    """

    def __init__(self, machines: Sequence[SVC], classes: np.ndarray) -> None:
        self.machines, self.classes = machines, classes

    def predict(self, gram: Tensor) -> Tensor:
        """Return labels (M,) for inner products (M, N) with the training images."""
        if len(self.machines) == 1:
            return torch.from_numpy(self.machines[0].predict(gram.numpy()))
        scores = np.stack([machine.decision_function(gram.numpy()) for machine in self.machines], 1)
        return torch.from_numpy(self.classes[scores.argmax(1)])

    def dual_weights(self, length: int) -> tuple[Tensor, Tensor]:
        """Return how much each training image counts in each decision: (P, length) and biases (P,), float64.

        P is one decision for each pair of classes (positive: the first), or for each class.
        """
        rows, biases = [], []
        for machine in self.machines:
            row, bias = _dual_rows(machine, length)
            rows.append(row)
            biases.append(bias)
        return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(biases))

    def to_linear(self, features: Features, train: Tensor) -> "LinearClassifier":
        """Return the same classifier as plain weights.

        Args:
            features: As the Gram matrix saw them.
            train: The places of the training images, in the order of their labels.
        """
        duals, biases = self.dual_weights(len(train))
        weights = torch.zeros(0)
        for rows in torch.arange(len(train)).split(64):
            part = duals[:, rows] @ features(train[rows]).double().cpu()
            weights = weights + part if len(weights) else part
        return LinearClassifier(weights, biases, torch.from_numpy(self.classes), len(self.machines) == 1)


def _dual_rows(machine: SVC, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Unfold libsvm's table of dual coefficients: one row of ``length`` numbers for each decision."""
    count = len(machine.classes_)
    if count == 2:
        row = np.zeros((1, length))
        row[0, machine.support_] = machine.dual_coef_[0]
        # sklearn turns the sign round for two classes: positive is the second.
        return row, machine.intercept_
    start = np.concatenate([[0], np.cumsum(machine.n_support_)])
    rows = np.zeros((count * (count - 1) // 2, length))
    for number, (first, second) in enumerate(combinations(range(count), 2)):
        # Support vectors lie class by class; those of a class hold one coefficient for each other class.
        for own, other in ((first, second - 1), (second, first)):
            places = slice(start[own], start[own + 1])
            rows[number, machine.support_[places]] = machine.dual_coef_[other, places]
    return rows, machine.intercept_


class LinearClassifier(nn.Module):
    """A linear SVM as plain weights: predicts without training images, saves without pickle, exports.

    Args:
        weights: One row for each decision, (P, d).
        biases: (P,).
        classes: Labels, (K,), ascending.
        pairs: The decisions are between all pairs of classes, which vote; else one for each class.
    """

    classes: Tensor
    votes_for: Tensor

    def __init__(self, weights: Tensor, biases: Tensor, classes: Tensor, pairs: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(weights.shape[1], weights.shape[0]).requires_grad_(False)
        self.linear.weight.copy_(weights)
        self.linear.bias.copy_(biases)
        self.register_buffer("classes", classes)
        count = len(classes)
        # which class a decision votes for, if <= 0 and if > 0
        votes_for = torch.zeros(2, weights.shape[0], count)
        if pairs:
            for number, (first, second) in enumerate(combinations(range(count), 2)):
                sign = 0 if count == 2 else 1  # with two classes sklearn's positive is the second
                votes_for[sign, number, first] = votes_for[1 - sign, number, second] = 1
        self.register_buffer("votes_for", votes_for)
        self.pairs = pairs

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, d) to scores (B, K): votes among pairs, or distances from the planes."""
        # In float32 whatever the network before it computes in: images near a plane must not change sides.
        with torch.autocast(features.device.type, enabled=False):
            decisions: Tensor = self.linear(features.float())
        if not self.pairs:
            return decisions
        positive = (decisions > 0).to(decisions.dtype)
        return positive @ self.votes_for[1] + (1 - positive) @ self.votes_for[0]

    def predict(self, features: Tensor) -> Tensor:
        """Return labels (B,) for features (B, d); among equal votes the first class, as libsvm does."""
        return self.classes[self(features).argmax(1)]


def fit_svm(
    gram: Tensor, labels: Tensor, c: float, multi_class: Literal["ovo", "ovr"] = "ovo"
) -> PrecomputedSVM:
    """Fit a linear SVM on inner products.

    Args:
        gram: Of the training images, (N, N).
        labels: (N,).
        c: Cost of errors.
        multi_class: ``ovo`` compares all pairs of classes, as ``SVC`` does; ``ovr`` each class with the rest.

    Raises:
        ValueError: There is only one class, or C is not positive.
    """
    classes = np.unique(labels.numpy())
    if len(classes) < 2:
        raise ValueError(f"an SVM needs two classes, all training images are of class {classes.tolist()}")
    if not c > 0:
        raise ValueError(f"C is positive, got {c}")
    kernel, target = gram.numpy(), labels.numpy()
    targets = [target] if multi_class == "ovo" else [(target == label).astype(int) for label in classes]
    machines = [SVC(C=c, kernel="precomputed", cache_size=1000).fit(kernel, one) for one in targets]
    return PrecomputedSVM(machines, classes)


def choose_c(
    gram: Tensor,
    labels: Tensor,
    grid: Sequence[float],
    *,
    folds: int = 5,
    seed: int = 0,
    multi_class: Literal["ovo", "ovr"] = "ovo",
) -> tuple[float, list[float], Tensor]:
    """Choose C by stratified cross-validation on the training images.

    Where the best value is the first or the last of the grid, and better than its neighbour, the grid is
    extended by half decades until it is not: at an edge nobody knows what lies beyond.

    Args:
        gram: Of the training images, (N, N).
        labels: (N,).
        grid: Values to try, ascending; a single one is taken as it is.
        folds: Parts that take turns as validation.
        seed: Of the folds.
        multi_class: See `fit_svm`.

    Returns:
        The value with the best mean accuracy, the smallest among equals; the values tried, ascending; and all
        accuracies, (values, folds).

    Raises:
        ValueError: A class has fewer images than there are folds.

    Warns:
        UserWarning: The best is at the edge all the same, after `EXTENSIONS` half decades.
    """
    counts = np.unique(labels.numpy(), return_counts=True)[1]
    if counts.min() < folds:
        raise ValueError(f"{folds} folds need {folds} images of each class, one has {counts.min()}")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(np.zeros(len(labels)), labels.numpy()))
    kernels = [(gram[train][:, train], gram[val][:, train]) for train, val in parts]

    def accuracies(c: float) -> Tensor:
        found = torch.zeros(folds, dtype=torch.float64)
        for fold, ((train, val), (inside, across)) in enumerate(zip(parts, kernels, strict=True)):
            predictions = fit_svm(inside, labels[train], c, multi_class).predict(across)
            found[fold] = (predictions == labels[val]).double().mean()
        return found

    values = list(grid)
    tried = [accuracies(c) for c in values]

    def edge() -> int | None:
        """Return where a value is to be added, 0 or the end; None if the best is inside."""
        means = [float(one.mean()) for one in tried]
        best = int(np.argmax(means))  # the smallest of equals: at the end it is better than all others
        if best == len(means) - 1:
            return len(means)
        return 0 if best == 0 and means[0] > means[1] else None

    for _ in range(EXTENSIONS if len(values) > 1 else 0):
        place = edge()
        if place is None:
            break
        c = values[-1] * 10**0.5 if place else values[0] / 10**0.5
        values.insert(place, c)
        tried.insert(place, accuracies(c))
    if len(values) > 1 and edge() is not None:
        warnings.warn(
            f"C is at the edge of what was tried, {values[0]:.3g} to {values[-1]:.3g}", stacklevel=2
        )
    accuracy = torch.stack(tried)
    return values[int(accuracy.mean(1).argmax())], values, accuracy


@dataclass(frozen=True)
class Trial:
    """A linear SVM trained on some images and tried on others.

    Attributes:
        svm: Fitted with the chosen C.
        c: Chosen by cross-validation on the training images.
        grid: The values tried.
        cross_validation: Accuracies, (values, folds).
        predictions: Labels of the test images, (M,).
        accuracy: On the test images.
    """

    svm: PrecomputedSVM
    c: float
    grid: list[float]
    cross_validation: Tensor
    predictions: Tensor
    accuracy: float


def try_svm(
    gram: Tensor,
    labels: Tensor,
    train: Tensor,
    test: Tensor,
    *,
    folds: int = 5,
    seed: int = 0,
    multi_class: Literal["ovo", "ovr"] = "ovo",
) -> Trial:
    """Choose C on the training images, fit, and predict the test images, which choose nothing.

    Args:
        gram: Of all images, (N, N).
        labels: Of all images, (N,).
        train: Places of the training images.
        test: Places of the test images.
        folds: See `choose_c`.
        seed: See `choose_c`.
        multi_class: See `fit_svm`.
    """
    inside = gram[train][:, train]
    grid = c_grid(inside)
    c, grid, curve = choose_c(inside, labels[train], grid, folds=folds, seed=seed, multi_class=multi_class)
    svm = fit_svm(inside, labels[train], c, multi_class)
    predictions = svm.predict(gram[test][:, train])
    accuracy = (predictions == labels[test]).double().mean().item()
    return Trial(svm, c, grid, curve, predictions, accuracy)


def learning_curve(
    gram: Tensor,
    labels: Tensor,
    train: Tensor,
    test: Tensor,
    sizes: Sequence[int],
    *,
    draws: int = 3,
    **how: Any,
) -> dict[int, list[float]]:
    """Return test accuracies by the number of training images of each class, over several random draws.

    Args:
        gram: Of all images, (N, N).
        labels: Of all images, (N,).
        train: Places of the training images, from which fewer are drawn.
        test: Places of the test images.
        sizes: Images of each class; C is chosen anew for each draw.
        draws: For each size.
        **how: See `try_svm`.
    """
    accuracies: dict[int, list[float]] = {}
    for size in sizes:
        for draw in range(draws):
            shuffled = train[np.random.default_rng([draw, size]).permutation(len(train))]
            members = [shuffled[labels[shuffled] == label][:size] for label in range(int(labels.max()) + 1)]
            trial = try_svm(gram, labels, torch.cat(members), test, **how)
            accuracies.setdefault(size, []).append(trial.accuracy)
    return accuracies

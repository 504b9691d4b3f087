"""The exact linear SVM through the Gram matrix.

A linear SVM needs of its features only their inner products. One pass over the features, however wide, gives
the Gram matrix of all images; after that each C, each fold and each split costs a solve on that matrix alone,
and the answers are those of ``sklearn.svm.SVC(kernel="linear")`` on the features themselves.

    features = torch.rand(4485, 25088)                # or a function that computes those of some images
    gram = unit_length(gram_matrix(features.__getitem__, 4485))
    trial = try_svm(gram, labels, train, test)        # trial.accuracy, trial.c, trial.predictions
"""

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

Scaling = Literal["raw", "l2", "power", "standard"]
# The features (B, d) of some images, by their places; ``__getitem__`` of a tensor (N, d) is such a function.
Features = Callable[[slice | Tensor], Tensor]


def gram_matrix(features: Features, count: int, *, held: int | None = None, streamed: int = 256) -> Tensor:
    """Return the inner products of all images, (count, count) float64.

    A block of images is held in memory while the images after it pass by; then the next block. With n blocks
    features are computed (n + 1) / 2 times, and never more than ``held + streamed`` images' at once.

    Args:
        features: Gives the features of some images, float32 or bfloat16.
        count: Number of images.
        held: Images in a block, all by default.
        streamed: Images that pass by at a time.

    Raises:
        ValueError: A feature is not finite.
    """
    gram = torch.zeros(count, count, dtype=torch.float64)
    held = held or count
    for start in range(0, count, held):
        block = slice(start, min(start + held, count))
        inside = features(block)
        for offset in range(0, len(inside), 512):  # in parts, to leave out what symmetry gives
            rows = slice(start + offset, min(start + offset + 512, block.stop))
            columns = slice(rows.start, block.stop)
            _fill(gram, rows, columns, inside[offset : offset + 512], inside[offset:])
        for first in range(block.stop, count, streamed):
            passing = slice(first, min(first + streamed, count))
            _fill(gram, block, passing, inside, features(passing))
    return gram


def _fill(gram: Tensor, rows: slice, columns: slice, left: Tensor, right: Tensor) -> None:
    """Write the inner products of two blocks of images, and their mirror image."""
    products = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    # A slice of a few thousand features is summed in float32, the slices in float64.
    pairs = zip(left.split(4096, 1), right.split(4096, 1), strict=True)  # type: ignore[no-untyped-call]
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
    for places in train.split(64):  # type: ignore[no-untyped-call]
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

    The same grid then serves features of any scale. Features that are all 0 are a ValueError.
    """
    length = gram.diagonal().mean().item()
    if not length > 0:
        raise ValueError("all features are 0 or not a number: there is nothing to tell classes apart by")
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
        for rows in torch.arange(len(train)).split(64):  # type: ignore[no-untyped-call]
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
) -> tuple[float, Tensor]:
    """Choose C by stratified cross-validation on the training images.

    Args:
        gram: Of the training images, (N, N).
        labels: (N,).
        grid: Values to try, ascending.
        folds: Parts that take turns as validation.
        seed: Of the folds.
        multi_class: See `fit_svm`.

    Returns:
        The value with the best mean accuracy, the smallest among equals; and all accuracies, (values, folds).

    Raises:
        ValueError: A class has fewer images than there are folds.
    """
    counts = np.unique(labels.numpy(), return_counts=True)[1]
    if counts.min() < folds:
        raise ValueError(f"{folds} folds need {folds} images of each class, one has {counts.min()}")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    accuracy = torch.zeros(len(grid), folds, dtype=torch.float64)
    for fold, (train, val) in enumerate(splitter.split(np.zeros(len(labels)), labels.numpy())):
        inside, across = gram[train][:, train], gram[val][:, train]
        for number, c in enumerate(grid):
            predictions = fit_svm(inside, labels[train], c, multi_class).predict(across)
            accuracy[number, fold] = (predictions == labels[val]).double().mean()
    return grid[int(accuracy.mean(1).argmax())], accuracy


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
    c, curve = choose_c(inside, labels[train], grid, folds=folds, seed=seed, multi_class=multi_class)
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

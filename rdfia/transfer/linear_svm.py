"""The exact linear SVM through the Gram matrix.

A linear SVM needs of its features only their inner products. One pass over the features, however wide, gives
the Gram matrix of all images; after that each C, each fold and each split costs a solve on that matrix alone,
and the answers are those of ``sklearn.svm.SVC(kernel="linear")`` on the features themselves.

    features = torch.rand(4485, 25088)                # or a function that computes those of some images
    gram = unit_length(gram_matrix(features.__getitem__, 4485))  # of `rdfia.transfer.gram`
    trial = try_svm(gram, labels, train, test)        # trial.accuracy, trial.c, trial.predictions
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC
from torch import Tensor, nn

from rdfia.transfer.gram import DISTINCT, Features

EXTENSIONS = 12  # half decades that the grid of C grows by at most
Scaling = Literal["raw", "l2", "power", "standard"]


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
            train: The indices of the training images, in the order of their labels.
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
            indices = slice(start[own], start[own + 1])
            rows[number, machine.support_[indices]] = machine.dual_coef_[other, indices]
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
        # At least float32 whatever the network before it computes in: images near a plane must not change
        # sides.
        dtype = torch.promote_types(torch.float32, self.linear.weight.dtype)
        weights, biases = self.linear.weight.to(dtype), self.linear.bias.to(dtype)
        with torch.autocast(features.device.type, enabled=False):
            decisions: Tensor = nn.functional.linear(features.to(dtype), weights, biases)
        if not self.pairs:
            return decisions
        positive = (decisions > 0).to(decisions.dtype)
        votes = self.votes_for.to(decisions.dtype)
        return positive @ votes[1] + (1 - positive) @ votes[0]

    def predict(self, features: Tensor) -> Tensor:
        """Return labels (B,) for features (B, d); among equal votes the first class, as libsvm does."""
        return self.classes[self(features).argmax(1)]


def fit_svm(
    gram: Tensor,
    labels: Tensor,
    c: float,
    multi_class: Literal["ovo", "ovr"] = "ovo",
    *,
    balanced: bool = False,
) -> PrecomputedSVM:
    """Fit a linear SVM on inner products.

    Args:
        gram: Of the training images, (N, N).
        labels: (N,).
        c: Cost of errors.
        multi_class: ``ovo`` compares all pairs of classes, as ``SVC`` does; ``ovr`` each class with the rest.
        balanced: Errors of a class cost C times the mean size of the classes over its own.

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
    options: dict[str, Any] = {"class_weight": "balanced" if balanced else None, "cache_size": 1000}
    machines = [SVC(C=c, kernel="precomputed", **options).fit(kernel, one) for one in targets]
    return PrecomputedSVM(machines, classes)


def choose_c(
    gram: Tensor,
    labels: Tensor,
    grid: Sequence[float],
    *,
    folds: int = 5,
    seed: int = 0,
    multi_class: Literal["ovo", "ovr"] = "ovo",
    balanced: bool = False,
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
        balanced: See `fit_svm`; accuracies are then means over classes.

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
            predictions = fit_svm(inside, labels[train], c, multi_class, balanced=balanced).predict(across)
            found[fold] = (balanced_accuracy if balanced else accuracy_of)(predictions, labels[val])
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


def accuracy_of(predictions: Tensor, labels: Tensor) -> float:
    """Return the share of predictions (N,) that are right."""
    return (predictions == labels).double().mean().item()


def balanced_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that ``labels`` (N,) holds of the share of each that is right."""
    right = (predictions == labels).double()
    counts = labels.bincount()
    return (labels.bincount(right)[counts > 0] / counts[counts > 0]).mean().item()


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
    balanced: bool = False,
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
        balanced: See `fit_svm`.
    """
    how: dict[str, Any] = {"multi_class": multi_class, "balanced": balanced}
    inside = gram[train][:, train]
    grid = c_grid(inside)
    c, grid, curve = choose_c(inside, labels[train], grid, folds=folds, seed=seed, **how)
    svm = fit_svm(inside, labels[train], c, **how)
    predictions = svm.predict(gram[test][:, train])
    return Trial(svm, c, grid, curve, predictions, accuracy_of(predictions, labels[test]))


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
        sizes: Images of each class; C is chosen again for each draw.
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

"""Byte-identical copies among pictures: found, counted by where they lie, kept out of two splits at once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Audit:
    """How many images there are, and how many of them are byte-identical copies.

    Attributes:
        train: Images in the training set, those held out for validation among them.
        test: Images in the test set.
        duplicate_pairs: Pairs of byte-identical files.
        across_splits: Those with one side in train and the other in test.
        across_classes: Those whose sides carry different labels.
        dropped: Test images left out because train holds them.
    """

    train: int
    test: int
    duplicate_pairs: int
    across_splits: int
    across_classes: int
    dropped: int

    def __str__(self) -> str:
        return (
            f"{self.train:,} training and {self.test:,} test images; "
            f"{self.duplicate_pairs} byte-identical pairs, {self.across_splits} between train and test, "
            f"{self.across_classes} between classes; {self.dropped} dropped from test"
        )


def digests(paths: Sequence[Path]) -> np.ndarray:
    """Return the SHA-256 of each file, (N,) of 32 bytes; of one that cannot be read, that of its path."""

    def digest(number: int) -> bytes:
        try:
            content = paths[number].read_bytes()
        except OSError:  # whoever decodes it says so
            content = os.fsencode(paths[number])
        return hashlib.sha256(content).digest()

    with ThreadPoolExecutor() as threads:
        return np.fromiter(threads.map(digest, range(len(paths))), "S32", len(paths))


def audit(
    train: np.ndarray, test: np.ndarray, hashes: np.ndarray, *, drop: bool = False
) -> tuple[np.ndarray, Audit]:
    """Count byte-identical files, and tell which test files train holds too.

    Args:
        train: Classes of the training files, (N,).
        test: Classes of the test files, (M,).
        hashes: What `digests` gives of both, those of ``train`` first, (N + M,).
        drop: Those are left out of the test, and counted so.

    Returns:
        Of each test file whether train holds it, (M,) bool; the audit.
    """
    labels = np.concatenate([train, test])
    in_train = np.arange(len(labels)) < len(train)
    _, content = np.unique(hashes, return_inverse=True)

    def pairs(*same: np.ndarray) -> int:
        """Return how many pairs are equal in content and in all of these."""
        counts = np.unique(np.stack([content, *same]), axis=1, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    everywhere = pairs()
    copied = np.isin(content[len(train) :], content[: len(train)])
    dropped = int(copied.sum()) if drop else 0
    return copied, Audit(
        train=len(train),
        test=len(test) - dropped,
        duplicate_pairs=everywhere,
        across_splits=everywhere - pairs(in_train),
        across_classes=everywhere - pairs(labels),
        dropped=dropped,
    )


def check_classes(labels: np.ndarray, classes: Sequence[str], part: str, *, least: int) -> None:
    """Check that each class has pictures enough.

    Args:
        labels: Classes of pictures, (N,).
        classes: Names of the classes.
        part: What they are for, such as ``test``.
        least: Of each class.

    Raises:
        ValueError: One has fewer.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if len(classes) and counts.min() < least:
        name = classes[int(counts.argmin())]
        raise ValueError(f"class {name!r} has {counts.min()} {part} images, it needs {least}")


def split_by_seed(
    labels: np.ndarray, per_class: int | Callable[[int], int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw items of each class; return their places and those of the rest, class by class.

    The same seed, the same split.

    Args:
        labels: Classes of items, (N,).
        per_class: How many of each class, or how many of a class with so many items.
        seed: Of the draw.
    """
    chosen, rest = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    by_class = np.argsort(labels, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1) if len(labels) else ():
        label = int(labels[members[0]])
        count = per_class if isinstance(per_class, int) else per_class(len(members))
        # What has no label, -1, is a class of its own.
        order = np.random.default_rng([seed, label] if label >= 0 else [seed]).permutation(len(members))
        chosen.append(members[np.sort(order[:count])])
        rest.append(members[np.sort(order[count:])])
    return np.concatenate(chosen), np.concatenate(rest)


def check_per_class(per_class: int | None) -> None:
    """Check how many training images of each class are to be drawn.

    Raises:
        ValueError: They are too few to hold one out.
    """
    if per_class is not None and per_class < 2:
        raise ValueError(f"per_class is at least 2, one to train on and one to validate, got {per_class}")


def a_share(fraction: float) -> Callable[[int], int]:
    """Return what share of a class `split_by_seed` draws: rounded, one at least."""
    return lambda count: max(1, round(count * fraction))


def split_by_content(
    labels: np.ndarray, hashes: np.ndarray, share: float | int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a share of each class, copies of a file always on one side.

    Args:
        labels: Classes of pictures, (N,).
        hashes: What `digests` gives of them, (N,).
        share: Of the distinct pictures of each class, rounded; one at least, and not all. Or a whole number:
            all but so many of each class.
        seed: Of the draw.

    Returns:
        Places of the rest and of those drawn, in order.
    """
    # A picture that lies in several classes is drawn with the first of them.
    _, first, content = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.sort(first)  # distinct pictures as they come

    def drawn_of(count: int) -> int:
        wanted = count - share if isinstance(share, int) else round(share * count)
        return min(max(1, wanted), count - 1)

    drawn, _ = split_by_seed(labels[order], drawn_of, seed)
    is_drawn = np.isin(first[content], order[drawn])
    return np.flatnonzero(~is_drawn), np.flatnonzero(is_drawn)

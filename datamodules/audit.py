"""Byte-identical copies among pictures: found, counted by where they lie, kept out of two splits at once."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

Labelled = tuple[Path, int]  # a picture and the index of its class
Item = TypeVar("Item")


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


def digests(paths: Sequence[Path]) -> list[bytes]:
    """Return the SHA-256 of each file."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda path: hashlib.sha256(path.read_bytes()).digest(), paths))


def audit(train: list[Labelled], test: list[Labelled], *, drop: bool) -> tuple[list[Labelled], Audit]:
    """Find byte-identical files; with ``drop``, leave out of test what train holds too.

    Returns:
        The test files that stay, and the audit.
    """
    hashes = digests([path for path, _ in train + test])
    copies: dict[bytes, list[tuple[bool, int]]] = defaultdict(list)
    for position, (digest, (_, label)) in enumerate(zip(hashes, train + test, strict=True)):
        copies[digest].append((position < len(train), label))
    pairs = [
        (first, second)
        for members in copies.values()
        for number, first in enumerate(members)
        for second in members[number + 1 :]
    ]
    in_train = set(hashes[: len(train)])
    kept = [
        item
        for item, digest in zip(test, hashes[len(train) :], strict=True)
        if not (drop and digest in in_train)
    ]
    return kept, Audit(
        train=len(train),
        test=len(kept),
        duplicate_pairs=len(pairs),
        across_splits=sum(first[0] != second[0] for first, second in pairs),
        across_classes=sum(first[1] != second[1] for first, second in pairs),
        dropped=len(test) - len(kept),
    )


def check_classes(files: list[Labelled], classes: Sequence[str], part: str, *, least: int) -> None:
    """Check that each class has pictures enough.

    Args:
        files: Pictures and their classes.
        classes: Names of the classes.
        part: What they are for, such as ``test``.
        least: Of each class.

    Raises:
        ValueError: One has fewer.
    """
    counts = np.bincount([label for _, label in files], minlength=len(classes))
    if counts.min() < least:
        name = classes[int(counts.argmin())]
        raise ValueError(f"class {name!r} has {counts.min()} {part} images, it needs {least}")


def split_by_seed(
    files: list[tuple[Item, int]], per_class: int | Callable[[int], int], seed: int
) -> tuple[list[tuple[Item, int]], list[tuple[Item, int]]]:
    """Draw items of each class; return them and the rest. The same seed, the same split.

    Args:
        files: Items and their classes.
        per_class: How many of each class, or how many of a class with so many items.
        seed: Of the draw.
    """
    chosen, rest = [], []
    for label in sorted({label for _, label in files}):
        members = [item for item in files if item[1] == label]
        count = per_class if isinstance(per_class, int) else per_class(len(members))
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen += [members[index] for index in sorted(order[:count])]
        rest += [members[index] for index in sorted(order[count:])]
    return chosen, rest


def split_by_content(files: list[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Draw a share of each class, copies of a file always on one side; return the rest and what was drawn.

    Args:
        files: Pictures and their classes.
        share: Of the distinct pictures of each class, rounded; one at least, and not all.
        seed: Of the draw.
    """
    hashes = digests([path for path, _ in files])
    # A picture that lies in several classes is drawn with the first of them.
    first: dict[bytes, int] = {}
    for digest, (_, label) in zip(hashes, files, strict=True):
        first.setdefault(digest, label)
    drawn, _ = split_by_seed(
        list(first.items()), lambda count: min(max(1, round(share * count)), count - 1), seed
    )
    chosen = {digest for digest, _ in drawn}
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for digest, item in zip(hashes, files, strict=True):
        sides[digest in chosen].append(item)
    return sides

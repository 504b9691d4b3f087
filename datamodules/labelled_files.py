"""Paths of pictures and their classes, as arrays: a million of them are a million Python objects less."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

Labelled = tuple[Path, int]  # a picture and the index of its class


class LabelledFiles(Sequence[Labelled]):
    """Pictures and the indices of their classes, kept as two arrays: a million of them take about 50 MB.

    A number gives ``(path, label)``, a slice or an array of numbers some of them.

    Args:
        root: The paths are in there.
        names: Of the pictures under ``root``, as the file system has them (`os.fsencode`), (N,).
        labels: Indices of classes, `UNLABELLED` where there is none, (N,).
    """

    def __init__(self, root: Path, names: np.ndarray | Sequence[bytes], labels: np.ndarray) -> None:
        self.root, self.labels = root, np.asarray(labels, np.int64)
        self.names = np.asarray(names, np.bytes_) if len(names) else np.empty(0, "S1")

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: "slice | np.ndarray") -> "LabelledFiles": ...
    def __getitem__(self, index: "int | slice | np.ndarray") -> "Labelled | LabelledFiles":
        if isinstance(index, int | np.integer):
            return self.root / os.fsdecode(self.names[index]), int(self.labels[index])
        return LabelledFiles(self.root, self.names[index], self.labels[index])

    def __iter__(self) -> Iterator[Labelled]:
        return (self[number] for number in range(len(self)))

    def __add__(self, other: "LabelledFiles") -> "LabelledFiles":
        """Return these and then those, of the same root."""
        assert self.root == other.root
        names = np.concatenate([self.names, other.names])
        return LabelledFiles(self.root, names, np.concatenate([self.labels, other.labels]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelledFiles) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # as of a list

    @property
    def paths(self) -> "Paths":
        """The paths alone, each made when it is asked for."""
        return Paths(self)


class Paths(Sequence[Path]):
    """The paths of `LabelledFiles`."""

    def __init__(self, files: LabelledFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        return self.files[int(index)][0] if isinstance(index, int | np.integer) else Paths(self.files[index])

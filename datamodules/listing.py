"""What lies in a folder of pictures, or in a list of them: paths, classes, splits.

Without torch, so that what is wrong is said at once: 10,000 files take a twentieth of a second.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from datamodules.labelled_files import LabelledFiles

# What is taken for a picture, in any case of the letters.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}
    | {".pgm", ".ppm", ".pbm", ".pnm"}
)
# Files that other systems leave in folders; nobody means them as pictures.
LITTER = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
LISTS = frozenset({".csv", ".tsv", ".txt"})  # of pictures, a line each
PARTS = ("train", "val", "test")
LIKE_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
UNLABELLED = -1
BESIDE = "pictures beside the split"

Labels = Literal["required", "optional", "none"]


class Found(NamedTuple):
    """Pictures in a folder, in order of their paths, and how much else there is: by suffix, or what it is."""

    pictures: list[Path]
    others: Counter[str]

    def __str__(self) -> str:
        left_out = f"; not read: {kinds(self.others)}" if self.others else ""
        return f"{len(self.pictures):,} pictures{left_out}"


@dataclass
class Listing:
    """What is in a folder or a list.

    Attributes:
        classes: Their names, in the order of the labels; none where nothing is labelled.
        parts: Pictures by part; ``""`` where there is no split.
        others: What is there and is not read, by kind.
        split: The split in words.
    """

    classes: tuple[str, ...]
    parts: dict[str, LabelledFiles]
    others: Counter[str] = field(default_factory=Counter)
    split: str = ""

    def __post_init__(self) -> None:
        self.others = +self.others  # what there is none of is not named
        if "" not in self.parts and not self.split:
            self.split = f"own split into {', '.join(self.parts)}"


def kinds(others: Counter[str]) -> str:
    """Return files by suffix in words: ``3 .txt, 1 without a suffix``."""
    return ", ".join(f"{count:,} {kind or 'without a suffix'}" for kind, count in sorted(others.items()))


def is_litter(name: str) -> bool:
    """Return whether a file is hidden, or one that another system left: ``._x.jpg``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in LITTER


def scan(folder: Path, *, depth: int | None = None) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Return what is in a folder and the folders in it, but for what is hidden; links are followed.

    Args:
        folder: That exists.
        depth: How many folders deep to look; None for all.

    Returns:
        Names of pictures under ``folder``, sorted as paths are; of other files with what they are; of
        folders.
    """
    pictures: list[str] = []
    others: list[tuple[str, str]] = []
    folders: list[str] = []

    def look(place: str, prefix: str, left: int | None, above: frozenset[str]) -> None:
        with os.scandir(place) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = prefix + entry.name
            if is_litter(entry.name):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # links that lead to each other
                is_folder = is_file = False
            if is_folder:
                folders.append(name)
                if left == 0:
                    others.append((name, "folders"))
                elif (real := os.path.realpath(entry.path)) not in above:  # a link may lead back
                    look(entry.path, name + "/", None if left is None else left - 1, above | {real})
            elif not is_file:
                others.append((name, "broken links"))
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in SUFFIXES:
                    pictures.append(name)
                else:
                    others.append((name, suffix))

    look(str(folder), "", depth, frozenset({os.path.realpath(folder)}))
    pictures.sort(key=lambda name: name.split("/"))
    return pictures, others, folders


def find_pictures(folder: Path, *, recursive: bool = True) -> Found:
    """Return the pictures in a folder, and what else is there: nothing is left out without being counted.

    Hidden files, and files in hidden folders, are not looked at.

    Args:
        folder: That exists.
        recursive: Look into subfolders too.
    """
    pictures, others, _ = scan(folder, depth=None if recursive else 0)
    return Found([folder / name for name in pictures], Counter(kind for _, kind in others))


def find_each(places: Sequence[str | Path], flag: str = "") -> Found:
    """Return pictures that are named: files as they are, those of folders in order.

    Args:
        places: Files and folders.
        flag: That named them, for the message.

    Raises:
        FileNotFoundError: One does not exist, is no picture, or holds none.
    """
    pictures, others = [], Counter[str]()
    said = f"{flag} " if flag else ""
    for place in map(Path, places):
        if place.is_dir():
            there = find_pictures(place)
            if not there.pictures:
                raise FileNotFoundError(f"{said}{place} holds no pictures ({there})")
            pictures += there.pictures
            others += there.others
        elif place.is_file() and place.suffix.lower() in SUFFIXES:
            pictures.append(place)
        else:
            why = f"has none of {' '.join(sorted(SUFFIXES))}" if place.is_file() else "does not exist"
            raise FileNotFoundError(f"{said}{place} {why}")
    return Found(pictures, others)


def list_folder(
    folder: Path,
    *,
    labels: Labels = "required",
    classes: tuple[str, ...] | None = None,
    class_name: Callable[[str], str] = str,
    depth: int | None = None,
) -> Listing:
    """Return the pictures of a folder by class, and by part where it has a split of its own.

    Args:
        folder: ``<class>/*``, ``{train,val,test}/<class>/*``, or pictures without classes.
        labels: ``required``: classes are an error to lack. ``optional``: where no folder of a class holds
            pictures, none has a label. ``none``: none has one, folders or not.
        classes: That there must be; by default the names of the folders that hold pictures, sorted.
        class_name: Makes the name of a class of that of its folder.
        depth: How many folders below that of a class to look into; None for all.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It lacks what it should hold; the message says what was found.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; name a folder with a subfolder for each class")
    pictures, left_over, folders = scan(folder, depth=None if depth is None else depth + 2)
    own = [part for part in PARTS if part in folders]
    parts = own if "train" in own and len(own) > 1 else [""]

    def class_in(name: str) -> str | None:
        """Return the class of a picture by its name; None if it lies in no folder, or too deep."""
        first, slash, below = name.partition("/")
        return class_name(first) if slash and (depth is None or below.count("/") <= depth) else None

    placed = [(name, *_in_part(name, parts)) for name in pictures]
    found = tuple(sorted({name for _, part, rest in placed if part == parts[0] and (name := class_in(rest))}))
    others = Counter[str](kind for _, kind in left_over)
    if labels == "none" or (labels == "optional" and not found and classes is None):
        if not pictures:
            raise ValueError(f"{folder} holds no pictures ({Found([], others)})")
        by_part = {part: [name for name, its, _ in placed if its == part] for part in parts}
        others[BESIDE] += sum(part is None for _, part, _ in placed)
        unlabelled = {
            part: _files(folder, names, [UNLABELLED] * len(names)) for part, names in by_part.items()
        }
        return Listing((), unlabelled, others)
    if classes is None and not found:
        there = Found([folder / name for name in pictures], others)
        at = folder / parts[0]
        raise ValueError(
            f"{at} holds no folders with pictures ({there}); put those of each class into a folder"
        )
    if classes is None and {name.lower() for name in found} <= LIKE_PARTS:
        named = " and ".join(found)
        raise ValueError(
            f"{folder} holds {named}, which look like parts of a split; call them train, val and test"
        )
    mend = "add some, or delete the class" if classes is None else "unpack the data again"
    classes = classes or found
    _check_twice(folder, parts, folders, classes, class_name)
    index = {name: number for number, name in enumerate(classes)}
    kept: dict[str, tuple[list[str], list[int]]] = {part: ([], []) for part in parts}
    others, full = Counter[str](), set[str]()
    for name, part, rest in placed:
        label = index.get(class_in(rest) or "")
        if part is None:
            others[BESIDE] += 1
        elif label is not None:
            kept[part][0].append(name)
            kept[part][1].append(label)
        elif "/" not in rest:
            others[f"{_suffix(name)} beside the classes"] += 1
        elif class_name(first := rest.partition("/")[0]) not in index:
            others[f"pictures in {first!r}, which is no class"] += 1
            full.add(f"{part}/{first}" if part else first)
    for part, (_, numbers) in kept.items():
        counts = np.bincount(np.array(numbers, np.int64), minlength=len(classes))
        if counts.min() == 0:
            lacking = classes[int(counts.argmin())]
            raise ValueError(f"{folder / part} holds no pictures of class {lacking!r}; {mend}")
    for name in folders:
        part, rest = _in_part(name, parts)
        if part is not None and rest:
            is_class = "/" in rest or class_name(rest) in index
            others["folders that are no class"] += not is_class and name not in full
            others["folders"] += depth is not None and rest.count("/") == depth + 1
    for name, kind in left_over:
        if kind != "folders":  # which are counted above
            beside = "/" not in _in_part(name, parts)[1]
            others[f"{kind} beside the classes" if beside else kind] += 1
    files = {part: _files(folder, *of_part) for part, of_part in kept.items()}
    return Listing(classes, files, others)


def _in_part(name: str, parts: Sequence[str]) -> tuple[str | None, str]:
    """Return the part of the split that a name lies in, None beside all of them, and its name in there."""
    if parts[0] == "":
        return "", name
    part, _, rest = name.partition("/")
    return (part, rest) if part in parts else (None, name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _check_twice(
    folder: Path, own: list[str], folders: list[str], classes: Iterable[str], class_name: Callable[[str], str]
) -> None:
    """Refuse two folders of one class."""
    for part in own:
        prefix = f"{part}/" if part else ""
        here = [name[len(prefix) :] for name in folders if name.startswith(prefix)]
        of: dict[str, str] = {}
        for name in here:
            if "/" not in name and class_name(name) in set(classes):
                if class_name(name) in of:
                    both = f"{of[class_name(name)]} and {name}"
                    raise ValueError(
                        f"{folder / part} holds two folders of class {class_name(name)!r}, {both}; join them"
                    )
                of[class_name(name)] = name


def _files(root: Path, names: Sequence[str], labels: Sequence[int]) -> LabelledFiles:
    return LabelledFiles(root, [os.fsencode(name) for name in names], np.asarray(labels, np.int64))


def list_file(path: Path) -> Listing:
    """Return the pictures that a list names: ``path,label`` in each line, and ``train``, ``val`` or ``test``.

    Paths are relative to the list's folder, or absolute. Labels are names, or numbers, which are ordered as
    such. In a ``.txt`` the fields are apart by white space, the label last, as DomainNet and Office-31 list
    theirs; in a ``.tsv`` by tabs. A first line that names no picture is a header.

    Raises:
        FileNotFoundError: There is no such file, or pictures of it are missing: how many, and the first.
        ValueError: It is no such list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a list of pictures, path,label in each line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}); save it as such") from error
    if path.suffix.lower() == ".txt" and "," not in text.partition("\n")[0]:
        rows = [_fields(line) for line in text.splitlines() if line.strip()]
    else:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    root = path.parent
    if rows and not os.path.isfile(os.path.join(root, rows[0][0].strip())):
        rows = rows[_suffix(rows[0][0].strip()) not in SUFFIXES :]
    if not rows:
        raise ValueError(f"{path} names no pictures; it has path,label in each line")
    for number, row in enumerate(rows, 1):
        if len(row) not in (2, 3) or (len(row) == 3 and row[2].strip() not in PARTS):
            seen = ",".join(row)[:80]
            raise ValueError(f"{path}, picture {number}: got {seen!r}, expected path,label[,train|val|test]")
        if not row[1].strip():
            raise ValueError(f"{path}, picture {number}: {row[0]} has no label")
    missing = [row[0] for row in rows if not os.path.isfile(os.path.join(root, row[0].strip()))]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(rows):,} pictures of {path} are missing, such as {missing[0]}; paths "
            f"are relative to {root}"
        )
    written = {row[1].strip() for row in rows}
    numbers = all(label.removeprefix("-").isdecimal() for label in written)
    classes = tuple(sorted(written, key=lambda label: (int(label) if numbers else 0, label)))
    index = {name: number for number, name in enumerate(classes)}
    by_part: dict[str, tuple[list[str], list[int]]] = {}
    for row in rows:
        names, labels = by_part.setdefault(row[2].strip() if len(row) == 3 else "", ([], []))
        names.append(row[0].strip())
        labels.append(index[row[1].strip()])
    if "" in by_part and len(by_part) > 1:
        raise ValueError(f"{path} gives some pictures a part of the split and others none")
    if "" not in by_part and not ("train" in by_part and len(by_part) > 1):
        raise ValueError(f"{path} has {' and '.join(by_part)} alone; it needs train, and test or val")
    order = sorted(by_part, key=lambda part: PARTS.index(part) if part else 0)
    return Listing(classes, {part: _files(root, *by_part[part]) for part in order})


def _fields(line: str) -> list[str]:
    """Return path, label and, if there is one, part of a line whose fields are apart by white space."""
    fields = line.rsplit(maxsplit=2)
    return fields if len(fields) == 3 and fields[2] in PARTS else line.rsplit(maxsplit=1)


def open_listing(path: Path, labels: Labels = "required") -> Listing:
    """Return what lies in a folder, or what a list names.

    Raises:
        FileNotFoundError: There is no such folder, or pictures of a list are missing.
        ValueError: It lacks what it should hold, such as a second class.
    """
    if path.suffix.lower() in LISTS and not path.is_dir():
        listing = list_file(path)
    else:
        listing = list_folder(path, labels=labels)
    if labels == "required" and len(listing.classes) == 1:
        raise ValueError(f"{path} holds one class alone, {listing.classes[0]!r}; there must be two or more")
    return listing


def check_counts(path: Path, listing: Listing, per_class: int | None = None) -> None:
    """Check that there are pictures to train on, to validate and to test of each class.

    Args:
        path: For the message.
        listing: What is there.
        per_class: Training images of each class.

    Raises:
        ValueError: A class has too few.
    """
    if "" not in listing.parts and per_class is None:
        return
    drawn = "" in listing.parts
    least = 3 if per_class is None else per_class + drawn
    why = f" to train on {per_class}{' and test on others' if drawn else ''}" if per_class else ""
    labels = np.maximum(listing.parts["" if drawn else "train"].labels, 0)
    for name, count in zip(
        listing.classes or ("",), np.bincount(labels, minlength=len(listing.classes)), strict=True
    ):
        if count < least:
            what = f"class {name!r} of {path}" if name else str(path)
            raise ValueError(f"{what} has {count} pictures, it needs {least}{why}")

"""A progress bar for loops that take minutes."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str) -> Iterable[Item]:
    """Return the items, with a bar on stderr where that is a terminal, which goes when the loop ends."""
    bar: Iterable[Item] = tqdm(items, what, leave=False, disable=None)
    return bar

"""How far a loop that takes minutes has come: a bar on a terminal, else a line every half minute."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
EVERY = 30.0  # seconds between two lines, where there is no terminal


def progress(items: Iterable[Item], what: str) -> Iterable[Item]:
    """Return the items, and say on stderr how far they are: a bar that goes in the end, or lines."""
    if not sys.stderr.isatty():
        return _in_lines(items, what)
    bar: Iterable[Item] = tqdm(items, what, leave=False)
    return bar


def _in_lines(items: Iterable[Item], what: str) -> Iterator[Item]:
    count = len(items) if isinstance(items, Sized) else None
    started = said = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - said >= EVERY:
            said = now
            print(line(what, number, count, now - started), file=sys.stderr, flush=True)
        yield item


class Teller:
    """Says how far something without a loop is, where there is no terminal.

    Args:
        what: Is counted.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = self.said = time.monotonic()

    def tell(self, done: int) -> None:
        """Print a line if the last one is half a minute old."""
        now = time.monotonic()
        if now - self.said >= EVERY and not sys.stderr.isatty():
            self.said = now
            print(line(self.what, done, None, now - self.started), file=sys.stderr, flush=True)


def line(what: str, done: int, count: int | None, seconds: float) -> str:
    """Return how far something is: done of count, seconds so far, and about how many are left."""
    if count is None:
        return f"{what}: {done:,}, {seconds:,.0f} s"
    left = seconds / done * (count - done)
    return f"{what}: {done:,} of {count:,}, {seconds:,.0f} s, about {left:,.0f} s left"

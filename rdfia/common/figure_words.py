"""What there is to see in a figure, in a sentence that is made from the numbers it draws."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from rdfia.common.figure_style import is_share, short

# Sentences a figure, and lines or bars that are all named in one.
MOST_PANELS, MOST_NAMES = 4, 4


def number(value: float, label: str) -> str:
    """Return a value as people say it: a share in percent."""
    return f"{value:.1%}" if is_share(label) else short(value)


def listed(values: Mapping[str, float], label: str) -> str:
    """Return values by name, the highest first; of more than a few only the highest and the lowest."""
    order = sorted(values, key=lambda name: values[name], reverse=True)
    if len(order) > 1 and len({number(value, label) for value in values.values()}) == 1:
        return f"{number(values[order[0]], label)}, all {len(order)}"
    if len(order) > MOST_NAMES:
        first, last = order[0], order[-1]
        return (
            f"of {len(order)}, highest {number(values[first], label)} ({first}), "
            f"lowest {number(values[last], label)} ({last})"
        )
    return ", ".join(f"{name} {number(values[name], label)}".strip() for name in order)


def counted(sentences: Sequence[str]) -> str:
    """Return the first sentences, and how many more there would be."""
    more = len(sentences) - MOST_PANELS
    last = [f"{more} more panels."] if more > 0 else []
    return " ".join([*(f"{one[:1].upper()}{one[1:]}." for one in sentences[:MOST_PANELS]), *last])


def of_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], x_label: str
) -> str:
    """Return where the lines of each panel end, and where they are best if that is elsewhere.

    Args:
        panels: As `rdfia.common.plots.curves` takes them.
        x_label: What x is.
    """
    sentences = []
    for label, lines in panels.items():
        ends = {name: float(y[-1]) for name, (_, y) in lines.items() if len(y) and math.isfinite(y[-1])}
        if not ends:
            continue
        last = {x[-1] for name, (x, _) in lines.items() if name in ends}
        place = f"{x_label} {short(max(last))}" if len(x_label.split()) < 4 else "the right end"
        if len(last) > 1:
            place = "the end of each line"
        best = [elsewhere(name, *lines[name], label) for name in ends] if len(ends) <= MOST_NAMES else []
        said = "; ".join([listed(ends, label), *filter(None, best)])
        sentences.append(f"{label} at {place}: {said}")
    return counted(sentences)


def elsewhere(name: str, x: Sequence[float], y: Sequence[float], label: str) -> str:
    """Return where a line is best; empty if at its end, or if nobody says which way is better."""
    better = getattr(label, "better", "") or ("more" if is_share(label) else "")
    if not better:
        return ""
    best, extreme = (min, "lowest") if better == "less" else (max, "highest")
    place = best((n for n in range(len(y)) if math.isfinite(y[n])), key=lambda n: y[n])
    value = number(float(y[place]), label)
    if value == number(float(y[-1]), label):
        return ""
    return f"{name} {extreme} at {short(x[place])}, {value}".strip()


def of_bars(panels: Mapping[str, Mapping[str, float]]) -> str:
    """Return the values of each panel, see `listed`."""
    finite = {
        label: {name: value for name, value in bars.items() if math.isfinite(value)}
        for label, bars in panels.items()
    }
    return counted([f"{label}: {listed(bars, label)}" for label, bars in finite.items() if bars])


def of_confusions(counts: Tensor, classes: Sequence[str]) -> str:
    """Return how many are wrong, and the three most frequent confusions.

    Args:
        counts: (K, K) integers; row: true class, column: predicted class.
        classes: Their K names.
    """
    total, right = int(counts.sum()), int(counts.diagonal().sum())
    wrong = [
        (int(counts[row, column]), row, column) for row, column in counts.nonzero().tolist() if row != column
    ]
    worst = [
        f"{classes[row]} told as {classes[column]} ({count} of {int(counts[row].sum())})"
        for count, row, column in sorted(wrong, key=lambda one: (-one[0], one[1], one[2]))[:3]
    ]
    text = f"{total - right:,} of {total:,} are wrong"
    return f"{text}; most often {', '.join(worst)}." if worst else f"{text}."


def of_matrix(values: Tensor, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str]) -> str:
    """Return the highest and the lowest of a table of shares, with their row and column."""
    places = values.isfinite().nonzero().tolist()
    if not places:
        return ""
    order = sorted(places, key=lambda place: float(values[place[0], place[1]]))
    said = [
        f"{which} {float(values[row, column]):.0%} ({labels[0]} {rows[row]}, {labels[1]} {columns[column]})"
        for which, (row, column) in (("Highest", order[-1]), ("lowest", order[0]))
    ]
    return f"{', '.join(said)}."

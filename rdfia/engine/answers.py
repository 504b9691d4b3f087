"""The answer to a question in a sentence, made from the numbers of its table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rdfia.engine.differences import by_seed, difference, reach_of_mean
from rdfia.engine.questions import Cell, Question, Table
from rdfia.engine.runs import wilson

Runs = Mapping[str, Mapping[str, Any]]
TRAINED = ("cgan", "dann", "fine-tune", "gan")  # techniques whose numbers vary from training to training
MOST_NAMES = 4  # that are named where they share the first place


def in_words(table: Table, runs: Runs, question: Question) -> str:
    """Return what a table answers: its best and its worst value, and whether the first could be chance.

    Args:
        table: That of the question.
        runs: Content of results.json by run folder, for intervals.
        question: Says which column answers (the first if it is not there), and how.

    Returns:
        A sentence or two; empty if nothing is a number.
    """
    column, less = question.answered_by, question.less
    place = table.header.index(column) if column and column in table.header else 1
    cells = {
        row[0].text: row[place]
        for row in table.rows
        if len(row) > place and row[place].value is not None and math.isfinite(row[place].value or 0.0)
        if row[0].text not in question.apart_from
    }
    if not cells:
        return ""
    title = table.header[place]
    if len(cells) == 1:
        ((name, cell),) = cells.items()
        text = f"{', '.join(part for part in (name, title) if part)}: {said(cell, runs)}."
        return begun(text)
    if question.each:
        return f"{begun(title)}: {', '.join(f'{name} {said(cell, runs)}' for name, cell in cells.items())}."
    order = sorted(cells, key=lambda name: cells[name].value or 0.0, reverse=not less)
    first, last = cells[order[0]], cells[order[-1]]
    lead = begun(title) or "The number"
    if first.value == last.value:
        return f"{lead}: {said(first, runs)} in all {len(order)} rows."
    best, worst = ("lowest", "highest") if less else ("highest", "lowest")
    tied = [name for name in order if cells[name].value == first.value]
    second = order[len(tied)]
    text = f"{lead}: {best} for {all_of(tied)}, {said(first, runs)}; "
    text += f"{worst} for {order[-1]}, {said(last, runs)}."
    if why := may_be_chance(first, cells[second], runs):
        text += f" The difference to {second} ({cells[second].text}) may be chance: {why}."
    return text


def begun(text: str) -> str:
    """Return a text as a sentence begins; a name such as squeezenet1_1 stays as it is."""
    first = text.split(" ", 1)[0].split("/", 1)[0]
    return text if any(one.isdigit() or one == "_" for one in first) else f"{text[:1].upper()}{text[1:]}"


def all_of(names: Sequence[str]) -> str:
    """Return names as a list in words: a, b and c; of many the first and how many others."""
    if len(names) > MOST_NAMES:
        return f"{names[0]} and {len(names) - 1} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def said(cell: Cell, runs: Runs) -> str:
    """Return a number with what is known of how sure it is."""
    if cell.run not in runs:
        return cell.text
    run = runs[cell.run]
    metric = run["metrics"][cell.metric]
    if "interval" in metric:
        return f"{cell.text} (95 % interval, of {metric['of']:,})"
    if len(metric["values"]) > 1:
        return f"{cell.text} (over {counted(metric)} {'seeds' if len(run['seeds']) > 1 else 'draws'})"
    if (count := tested_on(cell, runs)) and (found := reach(cell, runs)):
        return f"{cell.text} (95 % interval {found[0]:.3f} to {found[1]:.3f}, of {count:,} test images)"
    return f"{cell.text} (one training)" if run.get("technique") in TRAINED else cell.text


def counted(metric: Mapping[str, Any]) -> str:
    """Return how many values a metric has; where some are no numbers, of how many."""
    every, known = len(metric["values"]), sum(value is not None for value in metric["values"])
    return f"{every}" if known == every else f"{known} of {every}"


def tested_on(cell: Cell, runs: Runs) -> int | None:
    """Return of how many test images a test accuracy is the share; None of another number."""
    count, name = runs[cell.run].get("data", {}).get("test"), cell.metric.rpartition("/")[2]
    # That from fewer components, or fewer training images, is of the same test images.
    of_all = name == "accuracy" or name.startswith("accuracy_from_")
    return count if of_all and isinstance(count, int) else None


def reach(cell: Cell, runs: Runs) -> tuple[float, float] | None:
    """Return where a number could lie: its 95 % interval, over seeds Student's.

    Returns:
        None of a single training whose number is not a share of known images.
    """
    if cell.run not in runs or cell.value is None:
        return None
    metric = runs[cell.run]["metrics"][cell.metric]
    if "interval" in metric:
        low, high = metric["interval"]
        return float(low), float(high)
    if metric["std"] is not None:
        half = reach_of_mean(metric["std"], sum(value is not None for value in metric["values"]))
        return cell.value - half, cell.value + half
    count = tested_on(cell, runs)
    return wilson(cell.value, count) if count else None


def may_be_chance(one: Cell, other: Cell, runs: Runs) -> str:
    """Return why a difference of two numbers may be chance; empty where it is not, or nothing is known."""
    ours, base = (by_seed(runs[cell.run], cell.metric) if cell.run in runs else None for cell in (one, other))
    found = difference(ours, base) if ours and base else None
    if found is not None and found.low is not None and found.high is not None:
        how = "the 95 % interval of the difference holds 0"
        return how if found.low <= 0 <= found.high else ""
    return "the ranges overlap" if overlap(reach(one, runs), reach(other, runs)) else ""


def overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    """Return whether two ranges are known and have values in common."""
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]

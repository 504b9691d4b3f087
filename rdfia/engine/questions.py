"""Questions, and the tables that answer them: where numbers lie in run folders, and how they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rdfia.engine.runs import spread


@dataclass(frozen=True)
class Question:
    """A question and where its answer lies.

    Attributes:
        title: The question.
        rows: By label, the run folder, or ``folder:row`` for a row of a table.
        columns: By title, the metric of the run or of the row.
        figures: By caption, ``folder/name`` of what is under ``figures/``, without its suffix, a pattern, or
            ``folder:row/name`` of what a row of a table has there.
        published: By label, what others found.
        note: What the numbers do not say.
        answered_by: The column that the sentence above the table reads, see `rdfia.engine.answers`; the
            first if empty.
        less: Its lowest value is what is looked for.
        apart_from: Rows that this sentence leaves out, as what they say goes without saying.
        each: The sentence names every row, in order: few things of which none is the best.
    """

    title: str
    rows: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    answered_by: str = ""
    less: bool = False
    apart_from: Sequence[str] = ()
    each: bool = False


@dataclass(frozen=True)
class Chapter:
    """A technique and the questions about it."""

    title: str
    questions: Sequence[Question]
    note: str = ""  # what the numbers are


class Cell(NamedTuple):
    """What a cell of a table shows; value, run and metric where it is a number."""

    text: str
    value: float | None = None
    run: str = ""
    metric: str = ""


class Table(NamedTuple):
    """Names of columns, and rows of cells."""

    header: list[str]
    rows: list[list[Cell]]


def run_of(place: str) -> str:
    """Return the run folder of ``folder``, ``folder:row`` or ``folder/figure``."""
    return place.partition(":")[0].partition("/")[0]


def metric_cell(name: str, results: Mapping[str, Any], metric: str) -> Cell:
    """Return a metric of a run as a cell; ``-`` where there is none, ``nan`` where it is no number."""
    found = results["metrics"].get(metric)
    if found is None or found["mean"] is None:
        return Cell("-" if found is None else "nan")
    mean = float(found["mean"])
    if mean.is_integer() and abs(mean) > 1 and found["std"] is None:
        return Cell(f"{mean:,.0f}", mean, name, metric)
    digits = 4 if "accuracy" in metric or "linf" in metric else 3 if abs(mean) < 100 else 0
    return Cell(spread(found, digits), mean, name, metric)


def runs_of(question: Question) -> dict[str, None]:
    """Return the run folders that a question is about, in order."""
    return dict.fromkeys(map(run_of, (*question.rows.values(), *question.figures.values())))


def asked(chapters: Sequence[Chapter], names: Sequence[str]) -> list[Chapter]:
    """Return chapters with the questions that the given runs answer, and of these their rows and figures."""

    def of_them(places: Mapping[str, str]) -> dict[str, str]:
        return {label: place for label, place in places.items() if run_of(place) in names}

    return [
        replace(
            chapter,
            questions=[
                replace(one, rows=of_them(one.rows), figures=of_them(one.figures))
                for one in chapter.questions
                if runs_of(one).keys() & set(names)
            ],
        )
        for chapter in chapters
    ]


def answer(question: Question, runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of a question: a row for each label whose run is there, columns that a row has.

    If only the baseline row of a comparison is present, the table is left empty. (But
    rows that name a number each stand by themselves.)

    Args:
        question: What is asked.
        runs: Content of results.json by run folder.
    """
    rows, lacking = [], 0
    for label, place in question.rows.items():
        name, _, row = place.partition(":")
        if name not in runs:
            continue
        cells = [
            metric_cell(name, runs[name], "/".join(part for part in (row, metric) if part))
            for metric in question.columns.values()
        ]
        if all(cell.text == "-" for cell in cells):  # a row that was not asked for
            lacking += 1
        else:
            rows.append([Cell(label), *cells])
    if lacking and len(rows) == 1 and any(question.columns.values()):
        rows = []
    there = [n for n in range(len(question.columns)) if any(row[n + 1].text != "-" for row in rows)]
    rows = [[row[0], *(row[n + 1] for n in there)] for row in rows]
    header = ["", *(list(question.columns)[n] for n in there)]
    if any(row[0].text in question.published for row in rows):
        header.append("published")
        rows = [[*row, Cell(question.published.get(row[0].text, ""))] for row in rows]
    return Table(header, rows)

"""Render README.md and docs/*.md from their templates and results/*.json, so that no number is typed by hand.

python scripts/render_docs.py

A page ``docs/templates/<page>.md.j2`` becomes ``docs/<page>.md``, and README.md.j2 becomes README.md. In a
template a measured number is ``{{ value("gan", "judge_fid", 2) }}``; one that somebody else published is
``{{ published("76.66") }}``, one that is a setting ``{{ setting("0.9") }}``. A sentence that depends on
numbers stands in ``{{ claim(condition, "sentence") }}``, which fails when it is no longer true.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from lab_highlights import SUMMARY
from lab_questions import CHAPTERS

from datamodules.files import atomic_file
from datamodules.layouts import TORCHVISION
from rdfia.common import plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import questions, report, runs
from rdfia.engine.answers import in_words
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args:
    """Render README.md and docs/*.md from docs/templates and results/*.json."""

    check: bool = False
    """Write nothing; fail if a page would change."""


ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "docs" / "templates"


class UntrueError(ValueError):
    """A claim of a page that the results do not bear out."""


def page_of(template: Path) -> Path:
    """Return the page that a template becomes."""
    name = template.name.removesuffix(".j2")
    return ROOT / name if name == "README.md" else ROOT / "docs" / name


def trainings(run: str) -> list[dict[str, Any]]:
    """Return the content of ``results/<run>.json``, and of ``results/<run>_more.json``: later seeds of it."""
    paths = [ROOT / "results" / f"{run}{end}.json" for end in ("", "_more")]
    return [json.loads(path.read_text()) for path in paths if path.exists() or path is paths[0]]


def result(run: str) -> dict[str, Any]:
    """Return the results of a run over all its seeds.

    Raises:
        UntrueError: Seeds that came later are not of the same experiment.
    """
    first, *later = parts = trainings(run)
    if not later:
        return first
    seeds = [seed for part in parts for seed in part["seeds"]]
    what = [(part["data"], part["selection"], part["metrics"].keys()) for part in parts]
    if len({*seeds}) < len(seeds) or any(one != what[0] for one in what):
        raise UntrueError(f"results/{run}_more.json has not other seeds of the experiment of {run}.json")
    values = {
        name: [one for part in parts for one in part["metrics"][name]["values"]] for name in first["metrics"]
    }
    return first | {"seeds": seeds, "metrics": runs.summarized(values)}


def metric(run: str, name: str) -> dict[str, Any] | None:
    """Return a metric of a run; None where it has none of that name."""
    found: dict[str, Any] | None = result(run)["metrics"].get(name)
    return found


def mean(run: str, name: str) -> float:
    """Return the mean of a metric over seeds.

    Raises:
        KeyError: The run has no metric of that name.
    """
    return float(result(run)["metrics"][name]["mean"])


def smallest(run: str, name: str) -> float:
    """Return the smallest value of a metric over seeds."""
    return float(min(result(run)["metrics"][name]["values"]))


def largest(run: str, name: str) -> float:
    """Return the largest value of a metric over seeds."""
    return float(max(result(run)["metrics"][name]["values"]))


def value(run: str, name: str, digits: int = 3, part: str = "mean") -> str:
    """Return the mean, or the std, of a metric."""
    return f"{result(run)['metrics'][name][part]:,.{digits}f}"


def spread(run: str, name: str, digits: int = 3) -> str:
    """Return mean ± standard deviation over seeds, or a share with its 95 % interval; ``-`` if not there."""
    found = metric(run, name)
    return "-" if found is None else runs.spread(found, digits)


def rows(run: str, score: str) -> list[str]:
    """Return the rows of a table that have a score, as they stand in the results."""
    end = f"/{score}"
    return [name.removesuffix(end) for name in result(run)["metrics"] if name.endswith(end)]


def best(run: str, score: str, *, least: bool = False) -> str:
    """Return the row of a table with the largest mean of a score, or the smallest."""
    by = {row: mean(run, f"{row}/{score}") for row in rows(run, score)}
    return min(by, key=by.__getitem__) if least else max(by, key=by.__getitem__)


def claim(condition: bool, sentence: str) -> str:
    """Return a sentence that holds as long as a condition of numbers does.

    Raises:
        UntrueError: It does not hold any more.
    """
    if not condition:
        raise UntrueError(f"the results no longer say: {sentence}")
    return sentence


def origin(run: str, part: int = 0) -> str:
    """Return commit, device, precision and time of the first, or a later, part of a run, as words.

    Raises:
        UntrueError: The code of the run was not committed.
    """
    found = trainings(run)[part]
    if "dirty" in found["commit"]:
        raise UntrueError(f"{found['command']}: of code that no commit holds ({found['commit']})")
    words = [f"commit {found['commit']}", found["device"].replace("1 threads", "1 thread")]
    words += [found["precision"]] if "precision" in found else []
    seeds = len(found.get("seeds", ()))
    words += [f"{seeds} seeds"] if seeds > 1 else []
    words += [f"{found['wall_seconds']:,.0f} s"] if "wall_seconds" in found else []
    words += [f"{found['peak_memory_gb']} GiB"] if "peak_memory_gb" in found else []
    return ", ".join(words)


def command(run: str) -> str:
    """Return the commands of a run as blocks of code, and where they ran."""
    blocks = []
    for part, (found, end) in enumerate(zip(trainings(run), ("", "_more"), strict=False)):
        line = found["command"].removesuffix(" --overwrite").replace(" --overwrite ", " ")
        line = line.replace("--data-dir ../shared/data", "--data-dir data")  # wherever it lay
        again = found.get("scored_again")
        more = f" Scored again by `{again['command']}`, commit {again['commit']}." if again else ""
        blocks.append(f"```\n{line}\n```\n\n`results/{run}{end}.json`: {origin(run, part)}.{more}")
    return "\n\n".join(blocks)


def few(items: list[str]) -> list[str]:
    """Return the first and the last two of more than four."""
    return items if len(items) <= 4 else [*items[:2], "…", *items[-2:]]


def answers() -> list[dict[str, str]]:
    """Return the questions of the practical with experiments, numbers and figures.

    Raises:
        UntrueError: A question has no number.
    """
    found = []
    for chapter in CHAPTERS:
        for question in chapter.questions:
            names = list(questions.runs_of(question))
            made = report.read_runs(ROOT / "results", names, "{}.json")
            table = questions.answer(question, made)
            said = in_words(table, made, question)
            if not said:
                raise UntrueError(f"{question.title!r} is not answered")
            found.append(
                {
                    "title": question.title,
                    "runs": ", ".join(f"`{name}`" for name in names),
                    "answer": said,
                    "figures": ", ".join(few([f"`{place}`" for place in question.figures.values()])),
                }
            )
    return found


def demo() -> str:
    """Return what ``make demo`` prints at its end."""
    folder = ROOT / "results" / "demo"
    made = report.read_runs(folder, [path.name for path in folder.iterdir()])
    lines = [f"{row[0].text:64}{row[1].text:>22}" for row in questions.answer(SUMMARY, made).rows]
    return "\n".join([*lines, "", "open runs/demo/report.html"])


def fixed(number: float, digits: int = 3) -> str:
    """Return a number with so many digits after the point."""
    return f"{number:,.{digits}f}"


def signed(number: float) -> str:
    """Return a difference with its sign."""
    return f"{number:+.3f}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.0f} %"


def gpu_check() -> dict[str, Any] | None:
    """Return what ``make gpu`` found on a card; None while no card was met."""
    path = ROOT / "results" / "gpu_check.json"
    return dict(json.loads(path.read_text())) if path.exists() else None


def draw_layers() -> None:
    """Draw the picture of README that is made of results: accuracy by layer of VGG16."""
    names = rows("svm_layers", "features")
    bars = {name.removeprefix("vgg16/"): mean("svm_layers", f"{name}/accuracy") for name in sorted(names)}
    label = axis_label("accuracy on 15 Scene's test images", share=True, better="more")
    figure = plots.bars({label: bars})
    assert figure is not None
    with atomic_file(ROOT / "results" / "svm_layers.png") as part:
        figure.savefig(part, format="png", dpi=100)


def environment() -> jinja2.Environment:
    """Return what renders the templates: an unknown name is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    asked = (
        result,
        metric,
        mean,
        smallest,
        largest,
        value,
        spread,
        rows,
        best,
        claim,
        origin,
        command,
        answers,
        demo,
        gpu_check,
    )
    found.globals |= {one.__name__: one for one in asked}
    found.globals |= {"published": str, "setting": str, "torchvision_sets": list(TORCHVISION)}
    found.filters |= {"fixed": fixed, "signed": signed, "percent": percent}
    return found


def pages() -> dict[Path, str]:
    """Return the content of each page."""
    made = environment()
    return {page_of(path): made.get_template(path.name).render() for path in sorted(TEMPLATES.glob("*.j2"))}


def main(args: Args) -> list[str]:
    """Write the pages that differ, and return their names.

    Raises:
        ValueError: A template cannot be rendered, or with ``--check`` a page differs.
    """
    try:
        found = pages()
    except (OSError, KeyError, jinja2.TemplateError) as error:
        raise ValueError(f"a page cannot be rendered: {type(error).__name__} {error}") from error
    changed = {path: text for path, text in found.items() if not path.exists() or path.read_text() != text}
    names = [str(path.relative_to(ROOT)) for path in changed]
    if args.check and names:
        raise ValueError(f"{', '.join(names)} differ; run: python scripts/render_docs.py")
    if not args.check:
        draw_layers()
    for path, text in changed.items():
        with atomic_file(path) as part:
            part.write_text(text)
    print("\n".join(f"{name} written" for name in names) or "all pages are as the results say")
    return names


if __name__ == "__main__":
    run_script(main, Args)

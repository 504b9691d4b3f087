"""Run folders as one page: questions, their numbers, pictures, how each was made. It needs nothing else.

python scripts/lab.py --data-dir sample --scale demo
"""

import glob
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import lightning
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from datamodules.files import atomic_file
from rdfia.common.environment import is_dry_run
from rdfia.common.figure_style import DESCRIPTION, SPOTS, as_png, as_svg
from rdfia.common.inlined import inlined
from rdfia.engine.answers import begun, in_words
from rdfia.engine.questions import Chapter, Question, Table, answer, run_of, runs_of
from rdfia.engine.runs import read_results, row_name

# Pixels: of a page on a large screen, and of each frame of a film.
WIDTH, FRAME_WIDTH, FRAMES = 1400, 560, 40
OF_A_PATTERN = 3  # figures that are shown


class Picture(NamedTuple):
    """A caption and the address of each frame: one for a picture, more for a film.

    ``spots`` are the places that say more where they are pointed at, see `rdfia.common.figure_spots.as_json`.
    """

    caption: str
    frames: list[str]
    spots: str = ""


def address(image: Image.Image, width: int) -> str:
    """Return an image as an address that holds it, at most so many pixels wide."""
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGBA" if image.has_transparency_data else "RGB").save(buffer, "webp", quality=85)
    return inlined("image/webp", buffer.getvalue())


def drawn(caption: str, figure: Figure) -> Picture:
    """Return a figure ready for a page."""
    shown = picture(caption, io.BytesIO(as_png(figure)))
    if (drawing := as_svg(figure)) is not None:
        return shown._replace(frames=[inlined("image/svg+xml", drawing)])
    return shown


def joined(caption: str, description: str) -> str:
    """Return what a figure is, and what there is to see in it."""
    if not description:
        return caption
    return f"{caption} {begun(description)}" if caption.endswith(".") else f"{caption}: {description}"


def picture(caption: str, path: Path | io.BytesIO, *, name: str = "") -> Picture:
    """Return a picture, the SVG beside it, or a film as at most `FRAMES` frames, ready for a page.

    The caption goes on with what the file says there is to see, or else its name.
    """
    try:
        return _picture(caption, path, name)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError(f"{path} is damaged ({error}); delete it, and the page is made without") from error


def _picture(caption: str, path: Path | io.BytesIO, name: str) -> Picture:
    """Return what `picture` does, or raise what Pillow does."""
    with Image.open(path) as file:
        of_film = file.info.get("comment", b"").decode("latin-1") if file.format == "GIF" else ""
        caption, spots = (
            joined(caption, file.info.get(DESCRIPTION, of_film) or name),
            file.info.get(SPOTS, ""),
        )
        if isinstance(path, Path) and path.with_suffix(".svg").exists():
            return Picture(caption, [inlined("image/svg+xml", path.with_suffix(".svg").read_bytes())], spots)
        count = getattr(file, "n_frames", 1)
        wanted = {round(n * (count - 1) / max(FRAMES - 1, 1)) for n in range(FRAMES)}
        width = WIDTH if count == 1 else FRAME_WIDTH
        frames = [
            address(frame, width) for n, frame in enumerate(ImageSequence.Iterator(file)) if n in wanted
        ]
    return Picture(caption, frames, spots)


def find_figures(folder: Path, place: str) -> list[Path]:
    """Return the files of a figure of `Question`, all of a pattern in order, a film before a picture.

    Where a run or a row has a folder for each training, those of the first.
    """
    run, _, name = place.partition("/")
    run, _, row = run.partition(":")
    for inside in (f"{row_name(row, '*')}/",) if row else ("", "*/"):
        found: dict[str, Path] = {}
        for kind in ("png", "gif"):
            paths = sorted((folder / run).glob(f"{inside}figures/{name}.{kind}"), reverse=True)
            found |= {path.stem: path for path in paths}
        if found:
            return [found[stem] for stem in sorted(found, key=by_numbers)]
    return []


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Return what sorts names as people do: image 2 before image 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def describe_data(data: Mapping[str, Any]) -> str:
    """Return in words what a run was trained on."""
    if "name" not in data:
        parts = {role: part for role, part in data.items() if isinstance(part, Mapping) and part}
        return "; ".join(f"{role} {describe_data(part)}" for role, part in parts.items())
    counts = [
        f"{data[part]:,} {part}" for part in ("train", "val", "test") if isinstance(data.get(part), int)
    ]
    return f"{data['name']} ({', '.join(counts)})" if counts else str(data["name"])


def read_runs(
    folder: Path, names: Sequence[str], pattern: str = "{}/results.json"
) -> dict[str, dict[str, Any]]:
    """Return what is known of runs by name: the content of those of their files that there are."""
    paths = {name: folder / pattern.format(name) for name in dict.fromkeys(names)}
    return {name: read_results(path) for name, path in paths.items() if path.exists()}


def write_report(
    path: Path,
    title: str,
    chapters: Sequence[Chapter],
    runs: Mapping[str, Mapping[str, Any]],
    *,
    runs_folder: Path,
    summary: Question | None = None,
    failed: Mapping[str, str] | None = None,
    intro: str = "",
    highlights: Sequence[Picture] = (),
) -> None:
    """Write a page; what was not run or failed is shown as such, and what was not asked of a run left out.

    Args:
        path: Of the page.
        title: Its title.
        chapters: What it answers.
        runs: Content of results.json by run folder.
        runs_folder: Holds the run folders, for their figures.
        summary: The main numbers, at the top.
        failed: By run folder, why it failed.
        intro: What this is.
        highlights: What is seen first, see `rdfia.engine.highlights`.
    """

    def shown(question: Question) -> dict[str, Any]:
        names = runs_of(question)
        missing = [f"{name}: failed: {failed[name]}" for name in names if failed and name in failed]
        missing += [f"{name}: not run" for name in names if name not in runs and name not in (failed or {})]
        missing += [
            f"{name}: nothing was measured. {'; '.join(runs[name]['notes'])}"
            for name in names
            if name in runs and not runs[name]["metrics"]
        ]
        files = {caption: find_figures(runs_folder, place) for caption, place in question.figures.items()}
        table, undrawn = answer(question, runs), []
        if table.rows or any(files.values()):
            undrawn = [
                f"{caption}: not drawn (a single value, or not asked for), {question.figures[caption]}"
                for caption, found in files.items()
                if not found and run_of(question.figures[caption]) in runs
            ]
        for caption, found in files.items():
            if more := len(found[OF_A_PATTERN:]):
                undrawn.append(
                    f"{caption}: {more} more like these in {found[0].parent.relative_to(runs_folder)}"
                )
        return {
            "title": question.title,
            "answer": in_words(table, runs, question) if question.title else "",
            "note": question.note if table.rows else "",
            "missing": missing,
            "undrawn": undrawn,
            "table": table,
            "pictures": [
                picture(caption, file, name=file.stem.replace("_", " ") if len(found) > 1 else "")
                for caption, found in files.items()
                for file in found[:OF_A_PATTERN]
            ],
            "runs": [
                {**runs[name], "data": describe_data(runs[name]["data"])} for name in names if name in runs
            ],
        }

    content = [
        {
            "title": chapter.title,
            "note": chapter.note,
            "questions": [
                one
                for one in map(shown, chapter.questions)
                if one["missing"] or one["table"].rows or one["pictures"]
            ],
        }
        for chapter in chapters
    ]
    table = answer(summary, runs) if summary else None
    write_sections(path, title, content, table, intro=intro, highlights=highlights)


def write_sections(
    path: Path,
    title: str,
    content: Sequence[Mapping[str, Any]],
    summary: Table | None = None,
    *,
    intro: str = "",
    highlights: Sequence[Picture] = (),
) -> None:
    """Write a page from what ``report.html`` shows.

    Args:
        path: Of the page.
        title: Its title.
        content: Chapters, each with ``title``, ``note`` and ``questions``; these with ``title``, ``note``,
            ``missing``, ``table``, ``pictures``, ``runs`` and, where there is one, ``answer``, and where
            pictures stand in a row, ``beside``.
        summary: The main numbers, at the top.
        intro: What this is.
        highlights: What is seen first.
    """
    # Names of files and classes come from outside.
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html")
    with atomic_file(path) as part:
        part.write_text(
            template.render(
                title=title, intro=intro, highlights=highlights, chapters=content, summary=summary
            )
        )


def write_run_page(folder: Path, results: Mapping[str, Any], trainer: lightning.Trainer) -> None:
    """Write ``index.html`` of one run: all its numbers and figures; nothing in a dry run.

    Args:
        folder: The run folder.
        results: The content of its results.json.
        trainer: Says whether it is a dry run.
    """
    if not is_dry_run(trainer) and trainer.is_global_zero:
        write_page(folder, results)


def write_page(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``index.html`` of a run folder: all numbers of its results.json, and its figures."""
    files = sorted(path.stem for path in (folder / "figures").glob("*") if path.suffix in (".png", ".gif"))
    question = Question(
        "",
        # Of a run that measured nothing the page says why.
        rows={metric: f"{folder.name}:{metric}" for metric in results["metrics"] or [""]},
        columns={"value": ""},
        figures={name.replace("_", " "): f"{folder.name}/{glob.escape(name)}" for name in files},
    )
    chapters, runs = [Chapter("Figures and numbers", [question])], {folder.name: results}
    write_report(folder / "index.html", folder.name, chapters, runs, runs_folder=folder.parent)

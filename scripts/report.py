"""Put runs side by side on one page: flags that differ, numbers and their differences, curves, pictures.

Examples:
    python scripts/report.py runs/gan runs/gan_practical --out page.html
    python scripts/report.py runs/gan_ladder --metrics fid recall
    python scripts/report.py runs/dann 'runs/sweep-*'

Trainings that differ in nothing but the seed count as one setting. The others are compared with the first,
in a table with its first row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rdfia.engine.args import default
from rdfia.engine.cli import run_script

if TYPE_CHECKING:
    from rdfia.engine.questions import Table


@dataclass(frozen=True)
class Args:
    """Put runs side by side on one page."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="(required)")]
    """Run folders, tables of runs, or patterns such as 'runs/sweep-*'; others are compared with the first."""
    out: Path = Path("runs/side_by_side.html")
    """The page."""
    metrics: Annotated[tuple[str, ...], default("all")] = ()
    """Metrics to show, by names or parts of names."""
    wandb: bool = False
    """Also show the page, its tables and its curves in Weights & Biases (offline without a login)."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name the runs, such as runs/gan runs/gan_practical")
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder; name a file, such as {self.out / 'page.html'}")
        if self.out.suffix != ".html":  # not the results.json of a run
            raise ValueError(f"--out {self.out}: the page is a file that ends in .html")


def main(args: Args) -> None:
    """Read, compare, write."""
    from rdfia.engine.side_by_side import write_comparison

    found = write_comparison(args.out, args.runs, args.metrics)
    numbers = texts(found.numbers)
    for row in [numbers[0], *numbers[1]]:
        print("  ".join([f"{row[0]:32}", *(f"{cell:>24}" for cell in row[1:])]))
    if found.equal:
        print(f"the same in all: {', '.join(found.equal)}")
    print(f"open {args.out}")
    if args.wandb:
        from rdfia.engine.wandb_run import finish_last, log_page

        tables = {"numbers": numbers, "flags that differ": texts(found.flags)}
        log_page(args.out, found.title, tables, found.curves)
        finish_last()


def texts(table: "Table") -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a table as they are read."""
    return list(table.header), [[cell.text for cell in row] for row in table.rows]


if __name__ == "__main__":
    run_script(main, Args)

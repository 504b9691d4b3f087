"""Put runs side by side on one page: flags that differ, numbers and their differences, curves, pictures.

Examples:
    python scripts/report.py runs/gan runs/gan_practical --out page.html
    python scripts/report.py runs/gan_ladder --metrics fid recall
    python scripts/report.py runs/dann 'runs/sweep-*'

Trainings that differ in nothing but the seed count as one setting. The others are compared with the first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rdfia.engine.args import default
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args:
    """Put runs side by side on one page."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, tables of runs, or patterns such as 'runs/sweep-*'; others are compared with the first."""
    out: Path = Path("runs/side_by_side.html")
    """The page."""
    metrics: Annotated[tuple[str, ...], default("all")] = ()
    """Metrics to show, by names or parts of names."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name the runs, such as runs/gan runs/gan_practical")
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder; name a file, such as {self.out / 'page.html'}")


def main(args: Args) -> None:
    """Read, compare, write."""
    from rdfia.engine.side_by_side import write_comparison

    table = write_comparison(args.out, args.runs, args.metrics)
    for row in [table.header, *([cell.text for cell in cells] for cells in table.rows)]:
        print("  ".join([f"{row[0]:32}", *(f"{cell:>24}" for cell in row[1:])]))
    print(f"open {args.out}")


if __name__ == "__main__":
    run_script(main, Args)

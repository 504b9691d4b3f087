"""The benchmark of DDP itself: a trainer script in one process and in two, on the same global batches."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import PRECISION, Args, in_turns, ratio

EPOCHS = 4
SCRIPTS = {"dann": ["train_dann.py", "--compare"], "gan": ["train_gan.py", "--preset", "practical"]}


def measure_ddp(args: Args) -> dict[str, Any]:
    """Measure epochs of DANN and of the practicals' GAN, with two threads and with two processes of one.

    What is compared is the time of a global batch: what the script says of images in a second, the median of
    the epochs after the first.
    """
    from datamodules.files import data_root

    root = data_root(args.data_dir)

    def seconds_an_image(technique: str, processes: int) -> float:
        with tempfile.TemporaryDirectory() as output:
            script, *flags = SCRIPTS[technique]
            where = ["--data-dir", str(root), "--output-dir", output, "--accelerator", "cpu"]
            how = ["--max-epochs", str(EPOCHS), "--precision", PRECISION, "--devices", str(processes)]
            command = [sys.executable, str(Path(__file__).parent.parent / script), *flags, *where, *how]
            done = subprocess.run(command, capture_output=True, text=True)
        found = re.findall(r"^epoch .* ([\d,]+) images/s", done.stdout, re.MULTILINE)
        if done.returncode or len(found) != EPOCHS:
            raise ValueError(f"{script} failed: {done.stderr.strip().splitlines()[-1:]}")
        return 1 / median(int(pace.replace(",", "")) for pace in found[1:])

    def run(technique: str, processes: int) -> Any:
        return lambda: seconds_an_image(technique, processes)

    work = {f"{technique}_on_{n}": run(technique, n) for technique in SCRIPTS for n in (1, 2)}
    times = in_turns(args.repeats, work)
    return {
        "epochs": EPOCHS,
        **{f"{name}_images_per_second": round(1 / median(values)) for name, values in times.items()},
        **{f"{name}_two_over_one": ratio(times[f"{name}_on_2"], times[f"{name}_on_1"]) for name in SCRIPTS},
    }

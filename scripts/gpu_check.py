"""Try a GPU in ten minutes: is all right on it, and how near is it to what the card can do?

    python scripts/gpu_check.py                       # on the embedded digits
    python scripts/gpu_check.py --data-dir data       # and whole trainings on MNIST
    python scripts/gpu_check.py --device cpu          # the same parts where there is none

Each part is a process with a time limit of its own; `check.json` is written after each: what ran is kept.

machine: driver, wheel, architecture, memory. steps: synchronisations by line, kernels and images a second of
each technique, with CUDA graphs and without. stacked: sixteen seeds at once beside one. scripts: whole
commands, and the seconds after training. resume: interrupted and continued, on the GPU and then on the CPU.
processes: what processes exchange, one under nccl and two on one card under gloo. scores: those of the GPU
beside the CPU's. tests: pytest -m gpu.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from datamodules.files import atomic_file
from rdfia.engine.args import default
from rdfia.engine.cli import run_script

# Seconds of each part, in the order of their worth; ten minutes in all.
LIMITS = {"machine": 30, "steps": 130, "stacked": 80, "resume": 70, "scripts": 90, "processes": 40}
LIMITS |= {"scores": 40, "tests": 120}
Part = Literal["machine", "steps", "stacked", "resume", "scripts", "processes", "scores", "tests"]


@dataclass(frozen=True)
class Args:
    """Try a GPU in ten minutes, part by part."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Device to try; `cpu` tries the parts themselves."""
    data_dir: Path = Path("sample")
    """Data folder; with one that holds MNIST, whole trainings are timed."""
    output: Path = Path("runs/gpu")
    """Folder of check.json, and of what the parts write."""
    only: Annotated[tuple[Part, ...], default("all")] = ()
    """Parts to try."""
    here: bool = False
    """Try the one part in this process, and print what it found as JSON."""


def main(args: Args) -> dict[str, Any]:
    """Run the parts; return the content of check.json."""
    if args.here:
        from gpu import parts

        found: dict[str, Any] = getattr(parts, args.only[0])(args.device, args.data_dir, args.output)
        print(json.dumps(found))
        return found
    check: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "device": args.device}
    for name in args.only or LIMITS:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--here", "--only", name, "--device", args.device]
        command += ["--data-dir", str(args.data_dir), "--output", str(args.output)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS[name])
            lines = done.stdout.strip().splitlines()
            found = json.loads(lines[-1]) if done.returncode == 0 else {"error": tail(done.stderr)}
        except subprocess.TimeoutExpired:
            found = {"error": f"not done within {LIMITS[name]} s"}
        except (json.JSONDecodeError, IndexError):
            found = {"error": f"said nothing: {tail(done.stderr)}"}
        check[name] = found | {"seconds": round(time.perf_counter() - started, 1)}
        args.output.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.output / "check.json") as part:
            part.write_text(json.dumps(check, indent=2) + "\n")
        print(f"{name}: {check[name].get('error', 'ok')}, {check[name]['seconds']} s", flush=True)
    wrong = [name for name, found in check.items() if isinstance(found, dict) and "error" in found]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: see {args.output / 'check.json'}")
    return check


def tail(text: str) -> str:
    """Return the last lines of what a process said."""
    return " | ".join(text.strip().splitlines()[-3:])[-500:]


if __name__ == "__main__":
    run_script(main, Args)

"""The whole lab: every experiment, one after the other, and one page that answers the practical's questions.

Examples:
    python scripts/lab.py --data-dir sample --scale demo
    python scripts/lab.py --data-dir data
    python scripts/lab.py --data-dir data --only gan cgan --seeds 3

What is done is skipped, what was interrupted is resumed. A failed experiment is shown as such on the page.
"""

import itertools
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from rdfia.engine.args import DataDir, default
from rdfia.engine.cli import run_script
from rdfia.engine.errors import Failed, Interrupted

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Experiment(NamedTuple):
    """One call of a trainer script: its flags at full scale and at demo scale; None: not at that scale."""

    script: str
    full: str | None
    demo: str | None
    seeds: bool = False  # takes --seeds


COMPARED = "--backbone squeezenet1_1 --compare resnet18 {mobilenet}"
CLASSES = "--judges resnet18 {mobilenet} --classes " + " ".join(str(number) for number in range(20, 1000, 40))
TABLE = f"class --preset practical {CLASSES}"
SAMPLE_CLASSES = "class --steps 120 --frames 20 --image-size 160"
DIGITS = "--dataset mnist --image-size 64"
# By the name of the run folder. The page asks for them in `lab_questions`.
EXPERIMENTS: dict[str, Experiment] = {
    "vgg16": Experiment(
        "visualize",
        "describe --backbone vgg16 --weights random",
        "describe --backbone vgg16 --weights random",
    ),
    "classify": Experiment("visualize", "classify", "classify"),
    "activations": Experiment("visualize", "activations --layer relu1", "activations --layer relu1"),
    "svm_layers": Experiment(
        "train_svm",
        "--features vgg16/conv1_2 vgg16/conv2_2 vgg16/conv3_3 vgg16/conv4_3 vgg16/conv5_3 vgg16/pool5 "
        "--memory-gb 9 --batch-size 16 --components 64 256 1024",
        f"{DIGITS} --features squeezenet1_1/fire5 squeezenet1_1/fire9 --components 64",
    ),
    "svm_pool5": Experiment("train_svm", "--features vgg16/pool5 --splits 10", None),
    "svm_shuffled": Experiment("train_svm", "--features vgg16/pool5 --shuffle-labels", None),
    # One layer of SqueezeNet: as it is, with random weights, and with grey images in one channel.
    **{
        f"svm_{name}": Experiment("train_svm", f"--features squeezenet1_1/fire9{flags}", None)
        for name, flags in {"squeezenet": "", "random": " --weights random", "grey": " --channels 1"}.items()
    },
    "svm_networks": Experiment(
        "train_svm",
        "--features {mobilenet}/block16 {mobilenet}/block17 resnet18/layer4 squeezenet1_1/fire9 "
        "--together --grids 1 2 3 --flip --splits 10",
        None,
    ),
    "fine_tune_frozen": Experiment(
        "train_fine_tune",
        "--max-epochs 10 --head-lr 3e-3",
        f"{DIGITS} --layer fire5 --max-epochs 4 --head-lr 1e-2 --augment",
    ),
    "fine_tune_staged": Experiment(
        "train_fine_tune",
        "--max-epochs 14 --head-lr 2e-3 --unfreeze-top-at 2 --unfreeze-all-at 4",
        f"{DIGITS} --layer fire5 --max-epochs 4 --head-lr 1e-2 --augment --unfreeze-all-at 1",
    ),
    "fine_tune_scratch": Experiment(
        "train_fine_tune",
        "--weights random --unfreeze-all-at 0 --trunk-lr 1e-3 --max-epochs 30 --train-on-val",
        None,
    ),
    **{
        f"fine_tune_{name}": Experiment("train_fine_tune", f"{flags} --train-on-val", None)
        for name, flags in {
            "frozen_all": "--max-epochs 10 --head-lr 3e-3",
            "all": "--max-epochs 14 --head-lr 2e-3 --unfreeze-top-at 2 --unfreeze-all-at 4",
        }.items()
    },
    "saliency": Experiment(
        "visualize", f"saliency {COMPARED} --randomized 10", "saliency --samples 10 --randomized 2"
    ),
    "adversarial": Experiment(
        "visualize",
        f"adversarial {COMPARED} --attacks fool fgsm pgd pgd_l2 eot pixels shapes "
        "--matrix fool --targets-per-image 10 --queries 2000",
        "adversarial --attacks fool pgd eot",
    ),
    "class_practical": Experiment(
        "visualize", f"class --preset practical {CLASSES}", f"{SAMPLE_CLASSES} --preset practical"
    ),
    "class": Experiment("visualize", f"class {CLASSES}", SAMPLE_CLASSES),
    **{
        f"class_{table}": Experiment("visualize", f"{TABLE} --table {table}", None)
        for table in ("ladder", "regularizers")
    },
    # Settings one by one, with one network as the practicals have them.
    **{
        f"class_{table}": Experiment("visualize", f"{TABLE} --no-in-turns --table {table}", None)
        for table in ("rate", "penalty", "steps")
    },
    "dann_paper": Experiment(
        "train_dann",
        "--network paper --max-epochs 20 --compare source-only no-reversal target-trained",
        None,
        seeds=True,
    ),
    "dann": Experiment(
        "train_dann",
        "--pseudo-label-rounds 2",
        "--max-epochs 6 --batch-size 64 --compare source-only no-reversal",
        seeds=True,
    ),
    # Pseudo-labels alone, and training for as many epochs as with them.
    "pseudo_labels": Experiment(
        "train_dann", "--no-adapt --compare --pseudo-label-rounds 2", None, seeds=True
    ),
    "source_longer": Experiment("train_dann", "--no-adapt --compare --max-epochs 16", None, seeds=True),
    "dann_longer": Experiment("train_dann", "--compare --max-epochs 16", None, seeds=True),
    "dann_ablation": Experiment(
        "train_dann", "--network paper --ablation --compare --max-epochs 4", None, seeds=True
    ),
    "gan_practical": Experiment(
        "train_gan", "--preset practical", "--preset practical --max-epochs 16", seeds=True
    ),
    "gan": Experiment("train_gan", "", "--max-epochs 8", seeds=True),
    "cgan": Experiment("train_cgan", "", "--max-epochs 8", seeds=True),
    "cgan_no_label": Experiment("train_cgan", "--compare no-label-in-discriminator", None, seeds=True),
    "gan_ablation": Experiment("train_gan", "--preset practical --ablation all", None, seeds=True),
    "gan_ladder": Experiment("train_gan", "--preset practical --ablation ladder", None, seeds=True),
}


@dataclass(frozen=True)
class Args:
    """Run every experiment that is not done yet and write one page about all of them."""

    data_dir: DataDir = None
    """Data folder, or `sample`."""
    output_dir: Annotated[Path | None, default("runs/lab, or runs/demo")] = None
    """Holds the run folders and report.html."""
    scale: Literal["full", "demo"] = "full"
    """Hours on real data, or minutes on the sample."""
    only: Annotated[tuple[str, ...], default("all")] = ()
    """Names of experiments, or their beginnings."""
    seeds: int = 1
    """Trainings of each row of what is trained."""
    precision: Literal["auto", "float32", "bf16-mixed"] = "auto"
    """Number format."""
    mobilenet: Literal["mobilenet_v2", "mobilenet_v2_tfsame"] = "mobilenet_v2"
    """Which of the two the data folder has weights of."""
    overwrite: bool = False
    """Begin what is asked for from scratch."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"--seeds is at least 1, got {self.seeds}")
        there = [name for name, one in EXPERIMENTS.items() if getattr(one, self.scale) is not None]
        for one in self.only:
            if not any(asked(name, (one,)) for name in there):
                raise ValueError(f"--only {one}: experiments at {self.scale} scale are {', '.join(there)}")

    @property
    def folder(self) -> Path:
        """Folder of the run folders."""
        return self.output_dir or Path("runs/demo" if self.scale == "demo" else "runs/lab")


def asked(name: str, only: tuple[str, ...]) -> bool:
    """Return whether an experiment is to be run: it is named, or all whose names begin so are."""
    return not only or any(name == one if one in EXPERIMENTS else name.startswith(one) for one in only)


def commands(args: Args) -> dict[str, list[str]]:
    """Return the command line of each experiment at the scale that is asked for, by name."""
    found = {}
    for name, experiment in EXPERIMENTS.items():
        flags: str | None = getattr(experiment, args.scale)
        if flags is None or not asked(name, args.only):
            continue
        command = [
            f"scripts/{experiment.script}.py",
            *shlex.split(flags.replace("{mobilenet}", args.mobilenet)),
        ]
        command += ["--data-dir", str(args.data_dir)] if args.data_dir else []
        command += ["--output-dir", str(args.folder), "--name", name]
        command += ["--seeds", *map(str, range(args.seeds))] if experiment.seeds else []
        rounded = experiment.script != "visualize" or "class" in command or "saliency" in command
        command += ["--precision", args.precision] if rounded and args.precision != "auto" else []
        command += ["--overwrite"] if args.overwrite else []
        found[name] = command
    return found


def meant(command: list[str]) -> list[str]:
    """Return what a command asks for: its folders as whole paths, however spelled, without --overwrite."""
    folders = ("--data-dir", "--output-dir")
    return [
        str(Path(word).resolve()) if flag in folders else word
        for flag, word in itertools.pairwise(["python", *command])
        if word != "--overwrite"
    ]


def is_done(folder: Path, command: list[str]) -> bool:
    """Return whether a run folder holds the results of a command, and what is written after them."""
    from rdfia.engine.runs import read_results

    last = folder / ("index.html" if command[0] == "scripts/visualize.py" else "results.json")
    path = folder / "results.json"
    if not (path.exists() and last.exists()):
        return False
    return meant(shlex.split(read_results(path)["command"])[1:]) == meant(command)


STOPS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: Any) -> None:
    """Treat SIGTERM as Ctrl-C."""
    raise KeyboardInterrupt


def leave(number: int, frame: Any) -> None:
    """End at once: an exception amid the import of a native library may crash."""
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


def call(command: list[str], parent: "Connection") -> None:
    """Run a script in this process, as if called from the shell; tell the parent what is wrong."""
    from importlib import import_module

    sys.argv = command
    os.setpgid(0, 0)  # the lab passes signals on, once
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        module = import_module(Path(command[0]).stem)
        run_script(module.main, module.Args)
    except Failed as error:
        parent.send(error.line)
        raise
    except KeyboardInterrupt:  # before the script listens
        sys.exit(130)


def main(args: Args) -> None:
    """Run what is asked for, write the page, print the main numbers."""
    import multiprocessing
    import time
    from multiprocessing import resource_tracker

    for stop in STOPS:
        signal.signal(stop, leave)
    # Slow to import.
    from lab_highlights import HIGHLIGHTS, INTRO, SUMMARY
    from lab_questions import CHAPTERS

    from datamodules.files import data_root
    from rdfia.engine import highlights, questions, report

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)
    data_root(args.data_dir)  # says now if there is none
    if args.folder.exists() and not args.folder.is_dir():
        raise ValueError(f"--output-dir {args.folder} is a file; name a folder")
    # A process for each, that begins with what all of them import.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "lightning", "torchmetrics", "sklearn.svm"])
    resource_tracker.ensure_running()  # its start unblocks signals, which would reach the server's imports
    failed: dict[str, str] = {}
    wanted = commands(args)
    stopped = ""
    for number, (name, command) in enumerate(wanted.items(), 1):
        try:
            if not args.overwrite and is_done(args.folder / name, command):
                continue
        except ValueError as error:  # a damaged file
            failed[name] = str(error)
            continue
        print(f"\n[{number}/{len(wanted)}] python {shlex.join(command)}", flush=True)
        started = time.perf_counter()
        told, parent = context.Pipe(duplex=False)
        process = context.Process(target=call, args=(command, parent))
        # What is started has signals blocked until it can listen to them.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        process.start()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            process.join()
        except KeyboardInterrupt:
            os.kill(process.pid or 0, signal.SIGINT)  # it saves itself
            process.join()
            stopped = name
            break
        if process.exitcode:
            why = told.recv() if told.poll() else f"exit code {process.exitcode}"
            failed[name] = f"{why}; the command: python {shlex.join(command)}"
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    page = args.folder / "report.html"
    title = "The lab, at demo scale" if args.scale == "demo" else "The lab"
    runs: dict[str, dict[str, Any]] = {}
    for name in EXPERIMENTS:
        try:
            runs |= report.read_runs(args.folder, [name])
        except ValueError as error:
            failed[name] = str(error)
    there = [name for name, one in EXPERIMENTS.items() if getattr(one, args.scale) is not None]
    chapters = questions.asked(CHAPTERS, there)
    report.write_report(
        page,
        title,
        chapters,
        runs,
        runs_folder=args.folder,
        summary=SUMMARY,
        failed=failed,
        intro=INTRO,
        highlights=highlights.pictures_of(HIGHLIGHTS, runs, args.folder),
    )
    if stopped:
        raise Interrupted(f"interrupted in {stopped}; the same command resumes from there")
    for row in questions.answer(SUMMARY, runs).rows:
        print(f"{row[0].text:64}{row[1].text:>22}")
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    print(f"\nopen {page}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, Args)

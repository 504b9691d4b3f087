"""The subcommand class of visualize.py: images of classes, judged by networks that did not make them."""

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datamodules.images import decode_all
from rdfia.common import plots
from rdfia.engine import report, resume, runs, tables, training, wandb_run
from rdfia.interpret.attack_results import rounded
from rdfia.interpret.class_visualization import recognized, visualize_classes
from rdfia.interpret.commands.common import Numbers, class_of, classes_of, kept_as_png, load_networks, png
from rdfia.interpret.config import PRACTICAL, PRESETS, TABLES, ClassVisualization


def settings(args: ClassVisualization) -> dict[str, Any]:
    """Return the keywords of `visualize_classes` that flags and preset set."""
    preset = PRESETS[args.preset]
    given = {name: value for name in preset if (value := getattr(args, name)) is not None}
    return preset | given


def prepare_classes(
    args: ClassVisualization, networks: dict[str, Any], shown: None
) -> Callable[[Path, Any], Numbers]:
    """Check classes, picture and weights; return what draws and judges, for a folder and a trainer."""
    known = classes_of(networks[args.backbone])
    asked = [class_of(name, known) for name in args.classes]
    start = None
    if args.start is not None:
        if settings(args)["parametrization"] == "fourier":
            raise ValueError(
                "--parametrization fourier begins with noise; take --preset practical with --start"
            )
        if not args.start.is_file():
            raise FileNotFoundError(f"--start {args.start} is no picture that exists")
        size = args.image_size
        start = decode_all([args.start], mode="RGB", size=size, crop=size).float() / 255
    for network in networks.values():
        network.check_complete()
    return functools.partial(draw_classes, args, networks, asked, start)


def draw_classes(
    args: ClassVisualization,
    networks: dict[str, Any],
    asked: list[int],
    start: Any,
    folder: Path,
    trainer: Any,
) -> Numbers:
    """Draw classes; return how sure the makers are of them, and how many of them each judge recognises."""
    makers, found = [args.backbone, *args.ensemble], settings(args)
    device = networks[args.backbone].mean.device
    classes = torch.tensor(asked, device=device)
    if start is not None:
        start = start.expand(len(classes), -1, -1, -1).to(device)
    due = {round(number * found["steps"] / args.frames) for number in range(args.frames + 1)}
    frames: list[torch.Tensor] = []

    def watch(step: int, images: torch.Tensor) -> None:
        # Of the first batch of classes: it is enough for a film.
        if len(frames) < len(due) and step in due:
            frames.append(images[:16].cpu())

    # Only what is drawn: judges look in float32.
    with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16-mixed"):
        images = visualize_classes(
            [networks[name] for name in makers],
            classes,
            size=args.image_size,
            start=start,
            seed=args.seed,
            batch_size=args.batch_size,
            watch=watch,
            **found,
        )
    known = classes_of(networks[args.backbone])
    files = [
        kept_as_png(folder, trainer, "class", known[index], rounded(image).cpu())
        for index, image in zip(asked, images, strict=True)
    ]
    images = torch.stack(files).to(device)  # judged as files hold them
    metrics: dict[str, list[float]] = {}
    chances = {}
    for name, network in networks.items():
        chances[name], before = recognized(network, images, classes, batch_size=args.batch_size)
        metrics[f"{name}/confidence"] = [float(chances[name].mean())]
        metrics[f"{name}/top_1"] = [float((before < 1).double().mean())]
        metrics[f"{name}/top_5"] = [float((before < 5).double().mean())]
        metrics |= {f"{name}/{score}_of": [float(len(before))] for score in ("top_1", "top_5")}
        kind = "made them" if name in makers else "judges"
        print(
            f"{name:28}{kind:12}confidence {metrics[f'{name}/confidence'][0]:.3f}, recognised first "
            f"{metrics[f'{name}/top_1'][0]:.2f}, among five {metrics[f'{name}/top_5'][0]:.2f}"
        )
    captions = [
        f"{known[index]}\n" + " ".join(f"{chances[name][place]:.2f}" for name in networks)
        for place, index in enumerate(asked)
    ]
    title = f"made with {', '.join(makers)}; probabilities of {', '.join(networks)}"
    figure = plots.captioned(images, captions, columns=min(6, len(asked)), title=title, side=2.6)
    runs.save_figure(folder, "classes", figure, trainer)
    sure = ", ".join(f"{name} {metrics[f'{name}/confidence'][0]:.1%}" for name in makers)
    # All classes, of which a film shows the first.
    said = f"{len(frames)} frames over {found['steps']} steps; how sure of the class in the end: {sure}"
    said += f", on average over {len(asked)} classes."
    sheets = [plots.sheet(frame, min(6, len(frame))) for frame in frames]
    runs.save_film(folder, "film", sheets, trainer, said)
    return metrics, [f"{len(asked)} classes: {', '.join(known[index] for index in asked)}"]


def compare_settings(args: ClassVisualization, run_one: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Draw the classes with each row of settings and each maker; write what the others recognise.

    Each row and network has a run folder of its own in the table's; those that are done are not run again.
    By row: confidence of the networks that made the images, top_1 and top_5 of those that did not, means over
    all pairs; and those of each pair.

    Args:
        args: The flags.
        run_one: Draws one row with one network and returns its results.
    """
    if args.table is None or not args.judges:
        raise ValueError("--table compares networks that judge each other; name one or more as --judges")
    if args.preset != "practical":
        raise ValueError("--table changes the settings of the practicals; add --preset practical")
    if given := [name for name in PRACTICAL if getattr(args, name) is not None]:
        raise ValueError(f"--table sets --{given[0].replace('_', '-')} itself; leave it out")
    if args.weights not in ("imagenet", "random"):
        raise ValueError("--table draws with each network in turn; a file holds the weights of one")
    if args.ensemble:
        raise ValueError("--table draws with one network at a time; leave --ensemble out")
    if args.start and any("fourier" in changes.values() for changes in TABLES[args.table].values()):
        raise ValueError(f"--table {args.table} begins with noise; leave --start out")
    if args.start and not args.start.is_file():
        raise FileNotFoundError(f"--start {args.start} is no picture that exists")
    for name in args.classes:
        class_of(name)
    for network in load_networks(args).values():
        network.check_complete()
    networks, rows = [args.backbone, *args.judges], TABLES[args.table]
    none = torch.nn.Module()  # nothing is trained
    folder = training.open_run(args, none, {}, may_change=resume.MAY_CHANGE | {"table"})
    trainer = training.make_trainer(args, folder, monitor="none", mode="max", callbacks=[])
    metrics: dict[str, list[float]] = {}
    every: list[dict[str, Any]] = []
    samples: dict[str, torch.Tensor] = {}
    turns = {}
    for maker in networks if args.in_turns else networks[:1]:
        judges = tuple(other for other in networks if other != maker)
        turns[maker] = {"backbone": maker, "judges": judges}
    columns = ("confidence", "top_1", "top_5", "seconds")
    scores: dict[str, dict[str, list[float]]] = {row: {score: [] for score in columns} for row in rows}
    settings_of = {row: PRACTICAL | changes for row, changes in rows.items()}
    for row, maker, part in tables.trainings(args, settings_of, turns, folder, {"table": None}):
        print(f"{row}, {maker}", flush=True)
        results = training.finished(part, none, {}) or run_one(part)
        every.append(results)
        found = {score: value["mean"] for score, value in results["metrics"].items()}
        scores[row]["confidence"].append(found[f"{maker}/confidence"])
        scores[row]["seconds"].append(results["wall_seconds"])
        for judge in part.judges:
            for score in ("top_1", "top_5"):
                scores[row][score].append(found[f"{judge}/{score}"])
                metrics[f"{row}/{maker}/{judge}/{score}"] = [found[f"{judge}/{score}"]]
                metrics[f"{row}/{maker}/{judge}/{score}_of"] = [float(len(args.classes))]
        if maker == args.backbone and not args.fast_dev_run:
            files = sorted((folder / part.name / "images").glob("*.png"))[:6]
            samples[row] = torch.stack([png(file) for file in files])
    for row, by_score in scores.items():
        metrics |= {f"{row}/{score}": [statistics.mean(values)] for score, values in by_score.items()}
        # One class is one trial, whatever the number of its judges.
        metrics |= {f"{row}/{score}_of": [float(len(args.classes))] for score in ("top_1", "top_5")}
    if samples:
        figure = plots.image_rows(samples, title=f"made with {args.backbone}")
        runs.save_figure(folder, "settings", figure, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="visualize",
        seeds=[args.seed],
        data={},
        metrics=metrics,
        selection="none: the networks are as they were",
        wall_seconds=sum(results["wall_seconds"] for results in every),
        notes=[*every[0]["notes"], "means over all pairs of a network that made them and one that did not"],
    )
    report.write_run_page(folder, results, trainer)
    wandb_run.finish_last()
    tables.show(results, {row: f"{row}/" for row in rows}, columns, digits=3)
    print("a dry run, nothing kept" if args.fast_dev_run else f"index.html, results.json in {folder}")
    return results

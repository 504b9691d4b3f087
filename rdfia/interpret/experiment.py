"""The experiment in seeing inside networks: one subcommand of visualize.py, its figures and numbers."""

import dataclasses
import shutil
import time
from typing import Any

import torch

from rdfia.engine import devices, report, runs, training, wandb_run
from rdfia.interpret.commands.adversarial import prepare_attacks
from rdfia.interpret.commands.classes import compare_settings, prepare_classes
from rdfia.interpret.commands.common import PARTS, load_networks, own_network, read_pictures, seconds_kept
from rdfia.interpret.commands.layers import prepare_activations, prepare_classification, prepare_description
from rdfia.interpret.commands.saliency import prepare_saliency
from rdfia.interpret.config import (
    Activations,
    Adversarial,
    Classify,
    ClassVisualization,
    Describe,
    Flags,
    Pictures,
    Saliency,
)

# Each says what is wrong before there is a folder, and returns what does the work.
PREPARE: dict[type, Any] = {
    Describe: prepare_description,
    Classify: prepare_classification,
    Activations: prepare_activations,
    ClassVisualization: prepare_classes,
    Saliency: prepare_saliency,
    Adversarial: prepare_attacks,
}
# What flags are in a dry run, of whichever subcommand has them.
SMALL: dict[str, Any] = {"samples": 2, "randomized": 1, "steps": 2, "queries": 64, "frames": 2}
SMALL |= {"curve": (1.0,), "curve_l2": (1.0,), "patch_steps": 1}


def run(args: Flags) -> dict[str, Any]:
    """Look, draw and write; return the content of results.json."""
    if isinstance(args, ClassVisualization) and args.table:
        return compare_settings(devices.settle(args), run)

    small = {name: value for name, value in SMALL.items() if hasattr(args, name) and args.fast_dev_run}
    args = dataclasses.replace(args, **small)
    args = devices.settle(args, only_float32=not isinstance(args, ClassVisualization | Saliency))
    if args.precision == "16-mixed" or (
        args.precision != "float32" and not isinstance(args, ClassVisualization | Saliency)
    ):
        raise ValueError(f"--precision is float32 (class, saliency: or bf16-mixed), got {args.precision}")
    networks = load_networks(args)
    args = own_network(args, networks)
    shown = read_pictures(args, networks[args.backbone]) if isinstance(args, Pictures) else None
    work = PREPARE[type(args)](args, networks, shown)
    data = shown.data if shown else {}
    folder = args.output_dir / args.name
    ended = (folder / "index.html").exists() and not (folder / PARTS).exists()
    if ended and (results := training.finished(args, networks[args.backbone], data)):
        return results
    folder = training.open_run(args, networks[args.backbone], data)
    trainer = training.make_trainer(args, folder, monitor="none", mode="max", callbacks=[])
    device = trainer.strategy.root_device
    # Faster on a CPU. On a GPU it is slower in float32, by far where each channel has a kernel of its own.
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    for network in networks.values():
        network.to(device, memory_format=layout)
    if not (args.fast_dev_run or (folder / PARTS).exists()):
        for place in ("figures", "images"):
            shutil.rmtree(folder / place, ignore_errors=True)  # what a kill left, of other pictures perhaps
    started = time.perf_counter() - seconds_kept(folder)
    metrics, notes = work(folder, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="visualize",
        seeds=[args.seed],
        data=data,
        metrics=metrics,
        selection="none: the network is as it was",
        wall_seconds=time.perf_counter() - started,
        notes=notes,
    )
    report.write_run_page(folder, results, trainer)
    wandb_run.finish_last()
    if not args.fast_dev_run:
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    print("a dry run, nothing kept" if args.fast_dev_run else f"index.html, results.json in {folder}")
    return results

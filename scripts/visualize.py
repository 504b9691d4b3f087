"""Look at pretrained networks: layers, what they take images for, what that hangs on, what fools them.

Examples:
    python scripts/visualize.py describe --backbone vgg16 --weights random
    python scripts/visualize.py classify --data-dir sample --images cat.jpg holiday/
    python scripts/visualize.py activations --data-dir sample --layer fire2
    python scripts/visualize.py saliency --data-dir sample --compare resnet18
    python scripts/visualize.py adversarial --data-dir sample --attacks fool pgd
    python scripts/visualize.py class --data-dir sample --classes snail tarantula
"""

import dataclasses
from typing import Annotated, Any

import tyro
from visualize_adversarial import prepare_attacks
from visualize_attacks import Adversarial
from visualize_class import ClassVisualization, compare_settings, prepare_classes
from visualize_common import PARTS, Pictures, load_networks, read_pictures, seconds_kept
from visualize_layers import (
    Activations,
    Classify,
    Describe,
    prepare_activations,
    prepare_classification,
    prepare_description,
)
from visualize_saliency import Saliency, prepare_saliency

from rdfia.engine.cli import run_script

Args = (
    Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Activations, tyro.conf.subcommand("activations")]
    | Annotated[ClassVisualization, tyro.conf.subcommand("class")]
    | Annotated[Saliency, tyro.conf.subcommand("saliency")]
    | Annotated[Adversarial, tyro.conf.subcommand("adversarial")]
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


def main(
    args: Describe | Classify | Activations | ClassVisualization | Saliency | Adversarial,
) -> dict[str, Any]:
    """Look, draw and write; return the content of results.json."""
    if isinstance(args, ClassVisualization) and args.table:
        from rdfia.engine.devices import settle

        return compare_settings(settle(args), main)
    # Imported here, so that --help does not wait for torch.
    import shutil
    import time

    import torch

    from rdfia.engine import devices, report, runs, training, wandb_run

    small = {name: value for name, value in SMALL.items() if hasattr(args, name) and args.fast_dev_run}
    args = dataclasses.replace(args, devices=1, num_nodes=1, **small)
    args = devices.settle(args, only_float32=not isinstance(args, ClassVisualization | Saliency))
    if args.precision == "16-mixed" or (
        args.precision != "float32" and not isinstance(args, ClassVisualization | Saliency)
    ):
        raise ValueError(f"--precision is float32 (class, saliency: or bf16-mixed), got {args.precision}")
    if args.compile and not isinstance(args, Adversarial):
        raise ValueError("--compile is for the attacks that ask thousands of times; leave it out")
    networks = load_networks(args)
    shown = read_pictures(args) if isinstance(args, Pictures) else None
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


if __name__ == "__main__":
    run_script(main, Args)  # type: ignore[arg-type] # a union of subcommands

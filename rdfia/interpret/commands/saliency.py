"""The subcommand saliency of visualize.py: maps of what counts, and how far they can be trusted."""

import dataclasses
import functools
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch

from rdfia.common import plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import runs
from rdfia.interpret import network_plots, saliency
from rdfia.interpret.activations import last_maps
from rdfia.interpret.classifier import predict
from rdfia.interpret.commands.common import (
    Numbers,
    Shown,
    class_of,
    classes_of,
    known_classes,
    notes_on_classes,
    once,
)
from rdfia.interpret.config import Saliency
from rdfia.interpret.saliency import (
    area,
    cascading_randomization,
    deletion_and_insertion,
    random_maps,
    rank_correlation,
)

CHANCE: tuple[Literal["pixels", "blobs"], ...] = (
    "pixels",
    "blobs",
)  # see rdfia.interpret.saliency.random_maps


def prepare_saliency(
    args: Saliency, networks: dict[str, Any], shown: Shown
) -> Callable[[Path, Any], Numbers]:
    """Check class, layers and weights; return what draws and measures, for a folder and a trainer."""
    known = classes_of(networks[args.backbone])
    asked = None if args.target_class in ("true", "predicted") else class_of(args.target_class, known)
    layers = {
        name: args.layer or last_maps(network, shown.images[:1], len(classes_of(network)))
        for name, network in networks.items()
    }
    for name, network in networks.items():
        network.find_layer(layers[name])
        network.check_complete()
        found = network.tap(shown.images[:1].to(network.mean.device), [layers[name]])[layers[name]]
        if "grad_cam" in args.methods and found.ndim != 4:
            raise ValueError(f"--layer {layers[name]} of {name} gives no maps for grad_cam")
    return functools.partial(draw_saliency, args, networks, layers, asked, shown)


def explain(args: Saliency, network: Any, layer: str, images: Any, classes: Any, method: str) -> Any:
    """Return the maps (N, H, W) of a method."""
    size: dict[str, Any] = {"batch_size": args.batch_size}
    if method == "smooth_grad":
        return saliency.smooth_grad(network, images, classes, samples=args.samples, seed=args.seed, **size)
    if method == "integrated_gradients":
        found = saliency.integrated_gradients(network, images, classes, steps=args.samples, **size)
        return saliency.channel_max(found)
    if method == "grad_cam":
        return saliency.grad_cam(network, images, classes, network.find_layer(layer), **size)
    return saliency.gradient(network, images, classes, **size)


def draw_saliency(
    args: Saliency,
    networks: dict[str, Any],
    layers: dict[str, str],
    asked: int | None,
    shown: Shown,
    folder: Path,
    trainer: Any,
) -> Numbers:
    """Draw maps of each image, by each network; return how faithful each kind of map is.

    By network and kind: deletion and insertion, means over images of the areas under the curves; randomized,
    the correlation with the maps of a network whose weights are all random (0: the map depends on what was
    learned), over the images whose map is not empty then; empty, the share of those that are. By kind and
    pair of networks: agreement, the correlation of their maps. Beside them stand deletion and insertion of
    maps that know nothing, `CHANCE`.
    """
    images = shown.images.to(networks[args.backbone].mean.device)
    classes = classes_of(networks[args.backbone])
    predicted = {name: predict(network, images, args.batch_size) for name, network in networks.items()}
    known = known_classes(shown, predicted[args.backbone])
    asked_of = {
        name: guess if args.target_class == "predicted" else known for name, guess in predicted.items()
    }
    if asked is not None:
        asked_of = dict.fromkeys(networks, torch.full_like(known, asked))
    metrics: dict[str, list[float]] = {}
    maps: dict[tuple[str, str], torch.Tensor] = {}
    curves: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        for method in args.methods:
            measured = once(
                folder,
                trainer,
                f"{name}_{method}",
                functools.partial(measure, args, network, layers[name], images, asked_of[name], method),
            )
            maps[name, method] = measured["maps"]
            numbers = {}
            for kind in ("deletion", "insertion") if args.faithfulness else ():
                curve = measured[kind]
                numbers[kind] = float(area(curve).mean())
                share = torch.linspace(0, 1, curve.shape[1]).tolist()
                better: Any = {"insertion": "more", "deletion": "less"}[kind]
                label = axis_label(f"{name}: {kind}, probability", share=True, better=better)
                curves.setdefault(label, {})[method.replace("_", " ")] = (share, curve.mean(0).tolist())
            if kept := measured["randomized"]:
                numbers |= {"randomized": kept[-1], "randomized_empty": measured["empty"][-1]}
                stages = [stage / len(kept) for stage in range(1, len(kept) + 1)]
                curves.setdefault(f"{name}: correlation, randomized", {})[method.replace("_", " ")] = (
                    stages,
                    kept,
                )
            metrics |= {f"{name}/{method}/{kind}": [value] for kind, value in numbers.items()}
            line = "  ".join(f"{kind} {value:.3f}" for kind, value in numbers.items())
            print(f"{name:28}{method:24}{line}", flush=True)
        if args.faithfulness:
            find = functools.partial(measure_chance, args, network, layers[name], images, asked_of[name])
            for kind, curves_of in once(folder, trainer, f"{name}_chance", find).items():
                numbers = {}
                for panel, curve in curves_of.items():
                    numbers[panel] = float(area(curve).mean())
                    share = torch.linspace(0, 1, curve.shape[1]).tolist()
                    curves.setdefault(f"{name}: {panel}, probability", {})[kind.replace("_", " ")] = (
                        share,
                        curve.mean(0).tolist(),
                    )
                metrics |= {f"{name}/{kind}/{panel}": [value] for panel, value in numbers.items()}
                line = "  ".join(f"{panel} {value:.3f}" for panel, value in numbers.items())
                print(f"{name:28}{kind.replace('_', ' ') + ', chance':24}{line}", flush=True)
    for method in args.methods:
        for one, other in combinations(networks, 2):
            same = asked_of[one] == asked_of[other]  # maps of one class
            mean = float("nan")
            if same.any():
                mean = float(rank_correlation(maps[one, method][same], maps[other, method][same]).nanmean())
            metrics[f"{method}/agreement/{one}/{other}"] = [mean]
    figure = plots.curves(curves, x_label="share of the pixels, or of the layers from the last")
    runs.save_figure(folder, "faithfulness", figure, trainer)
    for place, image in enumerate(shown.images):
        rows = {}
        for name, network in networks.items():
            guess, drawn = int(predicted[name][place]), int(asked_of[name][place])
            panels = {method.replace("_", " "): maps[name, method][place] for method in args.methods}
            instead = int(known[place]) if drawn != int(known[place]) else guess
            if instead != drawn:  # what it looked at when it was wrong, or should have looked at
                asked_too, method = torch.tensor([instead], device=images.device), args.methods[0]
                more = explain(args, network, layers[name], images[[place]], asked_too, method)
                panels = {f"{name} of {classes[drawn]}": values for name, values in panels.items()}
                panels = {f"{method.replace('_', ' ')} of {classes[instead]}": more[0]} | panels
            rows[f"{name}\n{classes[guess]}"] = (image, panels)
        own = f": {classes[int(known[place])]}" if shown.labels[place] >= 0 else ""
        figure = network_plots.saliency(rows, title=f"{shown.names[place]}{own}")
        runs.save_figure(folder, f"saliency_{shown.names[place].replace(' ', '_')}", figure, trainer)
    few = f"{min(len(images), args.randomized)}, with at most 10 samples or steps"
    notes = [f"over {len(images)} images; randomization over {few}"]
    return metrics, notes + notes_on_classes(shown, args.backbone)


def measure(
    args: Saliency, network: Any, layer: str, images: Any, classes: Any, method: str
) -> dict[str, Any]:
    """Return maps (N, H, W), curves of deletion and insertion (N, steps + 1), correlations once random."""
    maps = explain(args, network, layer, images, classes, method)
    found: dict[str, Any] = {"maps": maps, "randomized": [], "empty": []}
    if args.faithfulness:
        found |= faithfulness(args, network, images, classes, maps)
    if args.randomized:
        # Spread over all, which often lie sorted by class: those of one class share one row of weights.
        few = torch.linspace(0, len(images) - 1, min(args.randomized, len(images))).round().long()
        found |= randomized(args, network, layer, images[few], classes[few], method)
    return found


def faithfulness(args: Saliency, network: Any, images: Any, classes: Any, maps: Any) -> dict[str, Any]:
    """Return the curves of deletion and insertion, each (N, steps + 1)."""
    # Where the network is only asked; maps are of float32.
    with torch.autocast(images.device.type, torch.bfloat16, enabled=args.precision == "bf16-mixed"):
        deletion, insertion = deletion_and_insertion(
            network, images, classes, maps, batch_size=args.batch_size
        )
    return {"deletion": deletion, "insertion": insertion}


def measure_chance(
    args: Saliency, network: Any, layer: str, images: Any, classes: Any
) -> dict[str, dict[str, Any]]:
    """Return the curves of maps that know nothing of the images, by kind; blobs as smooth as the layer's."""
    output = network.tap(images[:1], [layer])[layer]
    size = tuple(output.shape[2:]) if output.ndim == 4 else (7, 7)
    return {
        f"random_{kind}": faithfulness(
            args, network, images, classes, random_maps(images, kind, maps_size=size, seed=args.seed)
        )
        for kind in CHANCE
    }


def randomized(
    args: Saliency, network: Any, layer: str, images: Any, classes: Any, method: str
) -> dict[str, list[float]]:
    """Return the correlations with maps of a network that is made random stage by stage.

    Means over the images whose map is not the same everywhere; beside them the share of the others.
    """
    few = dataclasses.replace(args, samples=min(args.samples, 10))  # enough to tell what stays from what goes
    alike = cascading_randomization(network, lambda one: explain(few, one, layer, images, classes, method))
    return {
        "randomized": [float(one.nanmean()) for one in alike.values()],
        "empty": [float(one.isnan().double().mean()) for one in alike.values()],
    }

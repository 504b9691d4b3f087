"""The subcommands of visualize.py that look at layers: describe, classify, activations."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rdfia.common import plots
from rdfia.common.backbones import classify, describe
from rdfia.engine import runs
from rdfia.interpret import network_plots
from rdfia.interpret.activations import activation_maps
from rdfia.interpret.commands.common import Numbers, Shown, classes_of
from rdfia.interpret.config import Activations, Classify, Describe


def prepare_description(
    args: Describe, networks: dict[str, Any], shown: None
) -> Callable[[Path, Any], Numbers]:
    """Return what prints and draws the table of layers, for a folder and a trainer."""
    return functools.partial(describe_layers, args, networks[args.backbone])


def describe_layers(args: Describe, backbone: Any, folder: Path, trainer: Any) -> Numbers:
    """Print the layers and draw those with weights; return the sums."""
    rows = describe(backbone, args.image_size)
    print(f"{'layer':28}{'kind':20}{'output':>16}{'parameters':>14}{'multiply-adds':>17}")
    for row in rows:
        shape = "x".join(str(side) for side in row.shape)
        print(f"{row.name:28}{row.kind:20}{shape:>16}{row.parameters:>14,}{row.multiply_adds:>17,}")
    sums = {
        "parameters": sum(row.parameters for row in rows),
        "parameters_fully_connected": sum(row.parameters for row in rows if row.kind == "Linear"),
        "parameters_convolutions": sum(row.parameters for row in rows if row.kind == "Conv2d"),
        "multiply_adds": sum(row.multiply_adds for row in rows),
    }
    for name, value in sums.items():
        print(f"{name.replace('_', ' '):28}{value:>20,}")
    panels = {
        "parameters": {row.name: float(row.parameters) for row in rows if row.parameters},
        "multiply-adds": {row.name: float(row.multiply_adds) for row in rows if row.parameters},
    }
    runs.save_figure(folder, "layers", plots.bars(panels, title=args.backbone), trainer)
    absent = ", ".join(backbone.without_weights)
    notes = [f"no weights for {absent}"] if absent else []
    return {name: [float(value)] for name, value in sums.items()}, notes


def prepare_classification(
    args: Classify, networks: dict[str, Any], shown: Shown
) -> Callable[[Path, Any], Numbers]:
    """Check the flags; return what classifies and draws, for a folder and a trainer."""
    network = networks[args.backbone]
    if (kind := getattr(network, "kind", "probability")) != "probability":
        raise ValueError(f"{network.name} gives {kind}s, no probabilities; take scripts/predict.py")
    count = len(classes_of(network))
    if not 1 <= args.top <= count:
        raise ValueError(f"--top is 1 to {count}, got {args.top}")
    return functools.partial(classify_images, args, networks[args.backbone], shown)


def classify_images(args: Classify, backbone: Any, shown: Shown, folder: Path, trainer: Any) -> Numbers:
    """Print and draw the most probable classes; return the accuracies where the classes are known."""
    images, labels, names, _ = shown
    classes, right = classes_of(backbone), []
    for batch in torch.split(torch.arange(len(images)), args.batch_size):
        seen = images[batch].to(backbone.mean.device)
        probabilities, indices = (found.cpu() for found in classify(backbone, seen, args.top))
        normalised = ((seen - backbone.mean) / backbone.std).cpu()
        for row, place in enumerate(batch.tolist()):
            best = [classes[index] for index in indices[row].tolist()]
            chances = probabilities[row].tolist()
            true = classes[int(labels[place])] if labels[place] >= 0 else None
            line = ", ".join(f"{name} {chance:.3f}" for name, chance in zip(best, chances, strict=True))
            print(f"{names[place]}{f' ({true})' if true else ''}: {line}")
            absent = f", not among the first {args.top}" if true and true not in best else ""
            title = f"{args.backbone}: {true or names[place]}{absent}"
            figure = network_plots.classification(
                images[place], normalised[row], chances, best, true=true, title=title
            )
            runs.save_figure(folder, f"classes_{names[place].replace(' ', '_')}", figure, trainer)
            if true:
                right.append((indices[row] == labels[place]).tolist())
    if not right:
        return {}, ["the classes of these images are not known"]
    first = [float(hits[0]) for hits in right]
    any_of = [float(any(hits)) for hits in right]
    metrics = {"top_1": [sum(first) / len(first)], f"top_{args.top}": [sum(any_of) / len(any_of)]}
    print(", ".join(f"{name.replace('_', '-')} accuracy {value:.3f}" for name, (value,) in metrics.items()))
    counts = {f"{name}_of": [float(len(right))] for name in metrics}  # for their intervals
    return metrics | counts, [f"over {len(right)} images"]


def prepare_activations(
    args: Activations, networks: dict[str, Any], shown: Shown
) -> Callable[[Path, Any], Numbers]:
    """Check that the layer has so many maps; return what draws them, for a folder and a trainer."""
    backbone = networks[args.backbone]
    layer = args.layer or next(iter(backbone.layers))
    activation_maps(backbone, shown.images[:1], layer, count=args.maps)
    return functools.partial(draw_activations, args, backbone, layer, shown)


def draw_activations(
    args: Activations, backbone: Any, layer: str, shown: Shown, folder: Path, trainer: Any
) -> Numbers:
    """Draw the maps of a layer for each image; return how many of its values are not zero."""
    shares = []
    for image, name in zip(shown.images, shown.names, strict=True):
        seen = image[None].to(backbone.mean.device)
        maps, channels = activation_maps(backbone, seen, layer, count=args.maps, order=args.order)
        with torch.no_grad():
            shares.append((backbone.tap(seen, [layer])[layer] != 0).float().mean().item())
        title = f"{args.backbone} {layer}: {name}, {tuple(maps.shape[2:])}"
        figure = network_plots.maps_grid(image, maps[0], channels[0].tolist(), title=title)
        runs.save_figure(folder, f"{layer}_{name.replace(' ', '_')}", figure, trainer)
    return {f"{layer}/share_not_zero": [sum(shares) / len(shares)]}, [f"over {len(shares)} images"]

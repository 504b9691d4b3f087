"""Look at a pretrained network: its layers, what it takes images for, its activation maps.

Examples:
    python scripts/visualize.py describe --backbone vgg16 --weights random
    python scripts/visualize.py classify --data-dir sample --images cat.jpg holiday/
    python scripts/visualize.py activations --data-dir sample --layer fire2
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rdfia.command_line import TrainerArgs, run_script


@dataclass(frozen=True)
class Network(TrainerArgs):
    """Flags of all subcommands."""

    backbone: str = "squeezenet1_1"
    """Architecture, see rdfia.backbones."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    image_size: int = 224
    """Side of the images."""


@dataclass(frozen=True)
class Describe(Network):
    """Print the table of layers: output shape, parameters, multiply-adds."""

    name: str = "describe"
    """Name of the run folder."""


@dataclass(frozen=True)
class Pictures(Network):
    """Flags of subcommands that look at images."""

    images: tuple[Path, ...] = ()
    """Files or folders; else the ImageNet samples of --data-dir."""


@dataclass(frozen=True)
class Classify(Pictures):
    """Name the most probable ImageNet classes of images."""

    name: str = "classify"
    """Name of the run folder."""
    top: int = 5
    """How many classes."""


@dataclass(frozen=True)
class Activations(Pictures):
    """Draw activation maps of a layer."""

    name: str = "activations"
    """Name of the run folder."""
    layer: str | None = None
    """Its name, see `describe`; the first by default."""
    maps: int = 16
    """Maps of each image."""
    order: Literal["strongest", "first"] = "strongest"
    """Channels with the largest mean absolute value, or the first."""


Args = (
    Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Activations, tyro.conf.subcommand("activations")]
)


def main(args: Describe | Classify | Activations) -> dict[str, Any]:
    """Look, draw and write; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import time

    from datamodules.files import data_root
    from rdfia import runs, training, wandb_run
    from rdfia.activations import activation_maps
    from rdfia.backbones import load_backbone

    if args.precision != "float32":
        raise ValueError(f"visualize.py computes in float32, got --precision {args.precision}")
    if isinstance(args, Classify) and not 1 <= args.top <= 1000:
        raise ValueError(f"--top is 1 to 1000, got {args.top}")
    try:
        root = data_root(args.data_dir)
    except FileNotFoundError:
        if args.data_dir is not None or not isinstance(args, Describe):
            raise
        root = None  # embedded or random weights need none
    backbone = load_backbone(args.backbone, weights=args.weights, data_dir=root)
    images, labels, names, data = (None, None, [], {}) if isinstance(args, Describe) else read_images(args)
    if isinstance(args, Activations):  # a wrong layer, or one with fewer maps, is said now
        layer = args.layer or next(iter(backbone.layers))
        activation_maps(backbone, images[:1], layer, count=args.maps)
    folder = training.open_run(args, backbone, data)
    trainer = training.make_trainer(args, folder, monitor="none", mode="max", callbacks=[])
    backbone = backbone.to(trainer.strategy.root_device)
    started = time.perf_counter()
    if isinstance(args, Describe):
        metrics, notes = describe_layers(args, folder, trainer, backbone)
    elif isinstance(args, Classify):
        metrics, notes = classify_images(args, folder, trainer, backbone, images, labels, names)
    else:
        metrics, notes = draw_activations(args, folder, trainer, backbone, layer, images, names)
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
    wandb_run.finish_last()
    print("a dry run, nothing kept" if args.fast_dev_run else f"results.json in {folder}")
    return results


def read_images(args: Classify | Activations) -> Any:
    """Return images (N, 3, H, W) in [0, 1], labels (-1: unknown), names and a description."""
    import torch

    from datamodules.imagenet_samples import ImageNetSamplesDataModule
    from datamodules.images import decode_all
    from datamodules.tensors import ImageTensors, describe

    if not args.images:
        samples = ImageNetSamplesDataModule(args.data_dir, image_size=args.image_size)
        samples.prepare_data()
        samples.setup()
        found, names, data = samples.data, samples.names, samples.describe()
    else:
        paths: list[Path] = []
        for path in args.images:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            kinds = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
            pictures = [file for file in inside if file.suffix.lower() in kinds and file.is_file()]
            if not pictures:
                why = "holds no pictures" if path.is_dir() else "is no picture that exists"
                raise FileNotFoundError(f"--images {path} {why}")
            paths += pictures
        pixels = decode_all(paths, mode="RGB", size=args.image_size * 8 // 7, crop=args.image_size)
        found = ImageTensors(pixels, torch.full((len(paths),), -1))
        names = [
            f"{number}_{path.stem}" for number, path in enumerate(paths)
        ]  # two folders may hold one name
        data = describe("own images", test=found)
    count = 2 if args.fast_dev_run else len(found)
    images, labels = found[list(range(min(count, len(found))))]
    return images, labels, names, data


def describe_layers(
    args: Describe, folder: Path, trainer: Any, backbone: Any
) -> tuple[dict[str, list[float]], list[str]]:
    """Print the layers and draw those with weights; return the sums."""
    from rdfia import plots, runs
    from rdfia.backbones import describe

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


def classify_images(
    args: Classify, folder: Path, trainer: Any, backbone: Any, images: Any, labels: Any, names: list[str]
) -> tuple[dict[str, list[float]], list[str]]:
    """Print and draw the most probable classes; return the accuracies where the classes are known."""
    import torch

    from rdfia import plots, runs
    from rdfia.backbones import classify, imagenet_classes

    classes, right = imagenet_classes(), []
    for batch in torch.arange(len(images)).split(args.batch_size):
        shown = images[batch].to(backbone.mean.device)
        probabilities, indices = (found.cpu() for found in classify(backbone, shown, args.top))
        normalised = ((shown - backbone.mean) / backbone.std).cpu()
        for row, place in enumerate(batch.tolist()):
            told = [classes[index] for index in indices[row].tolist()]
            chances = probabilities[row].tolist()
            true = classes[int(labels[place])] if labels[place] >= 0 else None
            line = ", ".join(f"{name} {chance:.3f}" for name, chance in zip(told, chances, strict=True))
            print(f"{names[place]}{f' ({true})' if true else ''}: {line}")
            title = f"{args.backbone}: {true or names[place]}"
            figure = plots.classification(images[place], normalised[row], chances, told, title=title)
            runs.save_figure(folder, f"classes_{names[place].replace(' ', '_')}", figure, trainer)
            if true:
                right.append((indices[row] == labels[place]).tolist())
    if not right:
        return {}, ["the classes of these images are not known"]
    first = [float(hits[0]) for hits in right]
    any_of = [float(any(hits)) for hits in right]
    metrics = {"top_1": [sum(first) / len(first)], f"top_{args.top}": [sum(any_of) / len(any_of)]}
    print(", ".join(f"{name.replace('_', '-')} accuracy {value:.3f}" for name, (value,) in metrics.items()))
    return metrics, [f"over {len(right)} images"]


def draw_activations(
    args: Activations,
    folder: Path,
    trainer: Any,
    backbone: Any,
    layer: str,
    images: Any,
    names: list[str],
) -> tuple[dict[str, list[float]], list[str]]:
    """Draw the maps of a layer for each image; return how many of its values are not zero."""
    import torch

    from rdfia import plots, runs
    from rdfia.activations import activation_maps

    shares = []
    for place, image in enumerate(images):
        shown = image[None].to(backbone.mean.device)
        maps, channels = activation_maps(backbone, shown, layer, count=args.maps, order=args.order)
        with torch.no_grad():
            shares.append((backbone.tap(shown, [layer])[layer] != 0).float().mean().item())
        title = f"{args.backbone} {layer}: {names[place]}, {tuple(maps.shape[2:])}"
        figure = plots.maps_grid(image, maps[0], channels[0].tolist(), title=title)
        runs.save_figure(folder, f"{layer}_{names[place].replace(' ', '_')}", figure, trainer)
    return {f"{layer}/share_not_zero": [sum(shares) / len(shares)]}, [f"over {len(shares)} images"]


if __name__ == "__main__":
    run_script(main, Args)  # type: ignore[arg-type] # a union of subcommands

"""Look at pretrained networks: their layers, what they take images for, activation and saliency maps.

Examples:
    python scripts/visualize.py describe --backbone vgg16 --weights random
    python scripts/visualize.py classify --data-dir sample --images cat.jpg holiday/
    python scripts/visualize.py activations --data-dir sample --layer fire2
    python scripts/visualize.py saliency --data-dir sample --compare resnet18
    python scripts/visualize.py adversarial --data-dir sample --attacks fool pgd
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rdfia.command_line import TrainerArgs, run_script

# The least that flags can be, of whichever subcommand has them.
LEAST = {"image_size": 32, "samples": 1, "randomized": 0, "steps": 1, "frames": 1}
LEAST |= {"pixels": 1, "queries": 10, "blur_every": 0, "jitter": 0}


@dataclass(frozen=True)
class Network(TrainerArgs):
    """Flags of all subcommands."""

    backbone: str = "squeezenet1_1"
    """Architecture, see rdfia.backbones."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    image_size: int = 224
    """Side of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in LEAST.items():
            value = getattr(self, name, least)
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} is at least {least}, got {value}")
        for name in ("classes", "attacks", "methods", "curve"):
            if getattr(self, name, (1,)) == ():
                raise ValueError(f"--{name} names at least one")
        if (self.devices or 1) * self.num_nodes > 1:
            raise ValueError("visualize.py computes on one device; leave --devices and --num-nodes out")


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


@dataclass(frozen=True)
class ClassVisualization(Network):
    """Draw images that raise the logit of a class, and see which other networks recognise them."""

    name: str = "class"
    """Of the run folder."""
    classes: tuple[str, ...] = ("gorilla", "tarantula", "turnstile", "hourglass", "snail", "bee eater")
    """Their names or numbers."""
    ensemble: tuple[str, ...] = ()
    """More architectures whose logits are raised too."""
    judges: tuple[str, ...] = ()
    """Architectures that say what they see."""
    start: Path | None = None
    """Picture to begin with; else noise."""
    parametrization: Literal["pixels", "fourier"] = "pixels"
    """What is changed."""
    steps: int = 200
    """Their number."""
    rate: float | None = None
    """Size of a step; 5 for pixels, 0.05 for fourier."""
    penalty: float = 1e-3
    """Of the image's squared length."""
    smoothness: float = 0.0
    """Weight of the total variation."""
    blur_every: int = 10
    """Steps; 0 for never."""
    jitter: int = 16
    """Pixels."""
    rotation: float = 0.0
    """Degrees."""
    scale: float = 0.0
    """Part of the size."""
    frames: int = 40
    """Of the film."""


@dataclass(frozen=True)
class Saliency(Pictures):
    """Draw which pixels a class's score hangs on, and measure how far such maps can be trusted."""

    name: str = "saliency"
    """Of the run folder."""
    compare: tuple[str, ...] = ()
    """More architectures."""
    layer: str | None = None
    """For grad_cam; the last one with maps by default."""
    methods: tuple[Literal["gradient", "smooth_grad", "integrated_gradients", "grad_cam"], ...] = (
        "gradient",
        "smooth_grad",
        "integrated_gradients",
        "grad_cam",
    )
    """Kinds of maps."""
    of: str = "true"
    """Class: `true`, `predicted` or a name."""
    samples: int = 50
    """Copies for smooth_grad, steps for integrated_gradients."""
    randomized: int = 10
    """Images for the randomization check."""


@dataclass(frozen=True)
class Adversarial(Pictures):
    """Change images so little that nobody sees it, and so that the network is fooled."""

    name: str = "adversarial"
    """Of the run folder."""
    compare: tuple[str, ...] = ()
    """More architectures, for what transfers."""
    attacks: tuple[Literal["fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes"], ...] = ("fool", "pgd")
    """Kinds of attacks."""
    target: str = "any"
    """Class: `any`, `random`, `least-likely`, a name; of fool, `any` is `random`."""
    epsilon: float = 2.0
    """Grey levels of 255 for fgsm and pgd."""
    epsilon_l2: float = 1.0
    """Distance for pgd_l2."""
    epsilon_eot: float = 16.0
    """Grey levels of 255 for eot."""
    steps: int = 20
    """Of pgd; eot makes five times as many."""
    pixels: int = 3
    """That `pixels` changes."""
    queries: int = 10_000
    """At most, for pixels and shapes."""
    curve: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Grey levels for the curve of fgsm and pgd."""


Args = (
    Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Activations, tyro.conf.subcommand("activations")]
    | Annotated[ClassVisualization, tyro.conf.subcommand("class")]
    | Annotated[Saliency, tyro.conf.subcommand("saliency")]
    | Annotated[Adversarial, tyro.conf.subcommand("adversarial")]
)


def main(
    args: Describe | Classify | Activations | ClassVisualization | Saliency | Adversarial,
) -> dict[str, Any]:
    """Look, draw and write; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import time

    from datamodules.files import data_root
    from rdfia import runs, training, wandb_run
    from rdfia.activations import activation_maps
    from rdfia.backbones import load_backbone

    if args.fast_dev_run:
        small = {"samples": 2, "randomized": 1, "steps": 2, "queries": 64, "curve": (1.0,), "frames": 2}
        args = dataclasses.replace(
            args, **{name: value for name, value in small.items() if hasattr(args, name)}
        )
    args = dataclasses.replace(args, devices=1)
    if args.precision != "float32":
        raise ValueError(f"visualize.py computes in float32, got --precision {args.precision}")
    if isinstance(args, Classify) and not 1 <= args.top <= 1000:
        raise ValueError(f"--top is 1 to 1000, got {args.top}")
    try:
        root = data_root(args.data_dir)
    except FileNotFoundError:
        if args.data_dir is not None or not isinstance(args, Describe | ClassVisualization):
            raise
        root = None  # embedded or random weights need none
    used = [args.backbone]
    if isinstance(args, Saliency | Adversarial):
        used += args.compare
    elif isinstance(args, ClassVisualization):
        used += [*args.ensemble, *args.judges]
    networks = {name: load_backbone(name, weights=args.weights, data_dir=root) for name in used}
    backbone = networks[args.backbone]
    images, labels, names, data = read_images(args) if isinstance(args, Pictures) else (None, None, [], {})
    if isinstance(args, Activations):  # a wrong layer, or one with fewer maps, is said now
        layer = args.layer or next(iter(backbone.layers))
        activation_maps(backbone, images[:1], layer, count=args.maps)
    # What is wrong is said now, before there is a folder.
    if isinstance(args, Saliency):
        asked = None if args.of in ("true", "predicted") else class_of(args.of)
        layers = {name: args.layer or last_maps(network, images[:1]) for name, network in networks.items()}
        for name, network in networks.items():
            network.find_layer(layers[name])
    if isinstance(args, ClassVisualization):
        drawn = [class_of(name) for name in args.classes]
        start = start_image(args)
    if isinstance(args, Adversarial) and args.target not in ("random", "least-likely", "any"):
        class_of(args.target)
    if isinstance(args, Saliency | Adversarial | ClassVisualization):
        for network in networks.values():
            network.check_complete()
    folder = training.open_run(args, backbone, data)
    trainer = training.make_trainer(args, folder, monitor="none", mode="max", callbacks=[])
    for network in networks.values():
        network.to(trainer.strategy.root_device)
    started = time.perf_counter()
    if isinstance(args, Describe):
        metrics, notes = describe_layers(args, folder, trainer, backbone)
    elif isinstance(args, Classify):
        metrics, notes = classify_images(args, folder, trainer, backbone, images, labels, names)
    elif isinstance(args, ClassVisualization):
        metrics, notes = draw_classes(args, folder, trainer, networks, drawn, start)
    elif isinstance(args, Saliency):
        metrics, notes = draw_saliency(args, folder, trainer, networks, layers, asked, images, labels, names)
    elif isinstance(args, Adversarial):
        metrics, notes = attack_images(args, folder, trainer, networks, images, labels, names)
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


def read_images(args: Pictures) -> Any:
    """Return images (N, 3, H, W) in [0, 1], labels (-1: unknown), names and a description."""
    import torch

    from datamodules.imagenet_samples import ImageNetSamplesDataModule, find_pictures
    from datamodules.images import decode_all
    from datamodules.tensors import ImageTensors, describe

    folder = args.images[0] if len(args.images) == 1 and args.images[0].is_dir() else None
    if not args.images or (folder and find_pictures(folder)):  # named by synset: the classes are known
        samples = ImageNetSamplesDataModule(args.data_dir, path=folder, image_size=args.image_size)
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


def class_of(name: str) -> int:
    """Return the index of a class by name or number.

    Raises:
        ValueError: There is none; the message names near ones.
    """
    import difflib

    from rdfia.backbones import imagenet_classes

    classes = imagenet_classes()
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    known = {known.lower(): index for index, known in reversed(list(enumerate(classes)))}
    if name.lower() in known:
        return known[name.lower()]
    inside = [known for known in classes if name.lower() in known.lower()]
    near = list(dict.fromkeys([*inside, *difflib.get_close_matches(name, classes, 5, 0.5)]))[:5]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"ImageNet has no class {name!r}{hint}")


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


def draw_saliency(
    args: Saliency,
    folder: Path,
    trainer: Any,
    networks: dict[str, Any],
    layers: dict[str, str],
    asked: int | None,
    images: Any,
    labels: Any,
    names: list[str],
) -> tuple[dict[str, list[float]], list[str]]:
    """Draw maps of each image, by each network; return how faithful each kind of map is.

    By network and kind: deletion and insertion, means over images of the areas under the curves; randomized,
    the correlation with the maps of a network whose weights are all random (0: the map hangs on what was
    learned). By kind and pair of networks: agreement, the correlation of their maps.
    """
    from itertools import combinations

    import torch

    from rdfia import plots, runs
    from rdfia.adversarial import predict
    from rdfia.backbones import imagenet_classes
    from rdfia.saliency import (
        area,
        cascading_randomization,
        deletion_and_insertion,
        grad_cam,
        gradient,
        integrated_gradients,
        rank_correlation,
        smooth_grad,
        strongest,
    )

    def explain(
        network: Any, method: str, shown: torch.Tensor, classes: torch.Tensor, samples: int = args.samples
    ) -> torch.Tensor:
        size = {"batch_size": args.batch_size}
        if method == "smooth_grad":
            return smooth_grad(network, shown, classes, samples=samples, seed=args.seed, **size)
        if method == "integrated_gradients":
            return strongest(integrated_gradients(network, shown, classes, steps=samples, **size))
        if method == "grad_cam":
            return grad_cam(network, shown, classes, network.find_layer(layers[network.name]), **size)
        return gradient(network, shown, classes, **size)

    def randomized(network: Any, method: str, shown: torch.Tensor, classes: torch.Tensor) -> list[float]:
        """Return the mean correlations with maps of a network that is made random stage by stage."""
        samples = min(args.samples, 10)  # enough to tell a map that stays from one that goes
        alike = cascading_randomization(network, lambda one: explain(one, method, shown, classes, samples))
        return [float(one.mean()) for one in alike.values()]

    shown = images.to(networks[args.backbone].mean.device)
    classes = imagenet_classes()
    predicted = {name: predict(network, shown, args.batch_size) for name, network in networks.items()}
    known = torch.where(labels.to(shown.device) >= 0, labels.to(shown.device), predicted[args.backbone])
    asked_of = {name: told if args.of == "predicted" else known for name, told in predicted.items()}
    if asked is not None:
        asked_of = dict.fromkeys(networks, torch.full_like(known, asked))
    metrics: dict[str, list[float]] = {}
    maps: dict[tuple[str, str], torch.Tensor] = {}
    curves: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        for method in args.methods:
            found = maps[name, method] = explain(network, method, shown, asked_of[name])
            both = deletion_and_insertion(network, shown, asked_of[name], found, batch_size=args.batch_size)
            numbers = {}
            for kind, curve in zip(("deletion", "insertion"), both, strict=True):
                numbers[kind] = float(area(curve).mean())
                share = torch.linspace(0, 1, curve.shape[1]).tolist()
                curves.setdefault(f"{name}: {kind}", {})[method] = (share, curve.mean(0).tolist())
            if args.randomized:
                few = slice(args.randomized)
                kept = randomized(network, method, shown[few], asked_of[name][few])
                numbers["randomized"] = kept[-1]
                stages = [stage / len(kept) for stage in range(1, len(kept) + 1)]
                curves.setdefault(f"{name}: correlation, randomized", {})[method] = (stages, kept)
            metrics |= {f"{name}/{method}/{kind}": [value] for kind, value in numbers.items()}
            told = "  ".join(f"{kind} {value:.3f}" for kind, value in numbers.items())
            print(f"{name:28}{method:24}{told}", flush=True)
    for method in args.methods:
        for one, other in combinations(networks, 2):
            same = asked_of[one] == asked_of[other]  # maps of one class
            alike = (
                rank_correlation(maps[one, method][same], maps[other, method][same]) if same.any() else None
            )
            metrics[f"{method}/agreement/{one}/{other}"] = [
                float("nan") if alike is None else float(alike.mean())
            ]
    figure = plots.curves(curves, x_label="share of the pixels, or of the layers from the last")
    runs.save_figure(folder, "faithfulness", figure, trainer)
    for place, image in enumerate(images):
        rows = {}
        for name, network in networks.items():
            guess, drawn = int(predicted[name][place]), int(asked_of[name][place])
            shown_maps = {method.replace("_", " "): maps[name, method][place] for method in args.methods}
            other = int(known[place]) if drawn != int(known[place]) else guess
            if other != drawn:  # what it looked at when it was wrong, or should have looked at
                asked_too = torch.tensor([other], device=shown.device)
                more = explain(network, args.methods[0], shown[[place]], asked_too)[0]
                shown_maps = {f"{args.methods[0]} of {classes[other]}": more} | shown_maps
            rows[f"{name}\n{classes[guess]}"] = (image, shown_maps)
        title = f"{names[place]}: {classes[int(known[place])] if labels[place] >= 0 else 'class unknown'}"
        figure = plots.saliency(rows, title=title)
        runs.save_figure(folder, f"saliency_{names[place].replace(' ', '_')}", figure, trainer)
    notes = [f"over {len(images)} images; randomization over {min(len(images), args.randomized)}"]
    if (labels < 0).any():
        notes.append(f"where the class is not known, the answer of {args.backbone} stands for it")
    return metrics, notes


def start_image(args: ClassVisualization) -> Any:
    """Return the picture (1, 3, H, W) in [0, 1] to begin with, None for noise."""
    from datamodules.images import decode_all

    if args.start is None:
        return None
    if args.parametrization == "fourier":
        raise ValueError("--parametrization fourier begins with noise; take pixels with --start")
    if not args.start.is_file():
        raise FileNotFoundError(f"--start {args.start} is no picture that exists")
    return decode_all([args.start], mode="RGB", size=args.image_size, crop=args.image_size).float() / 255


def draw_classes(
    args: ClassVisualization,
    folder: Path,
    trainer: Any,
    networks: dict[str, Any],
    asked: list[int],
    start: Any,
) -> tuple[dict[str, list[float]], list[str]]:
    """Draw classes; return how sure the makers are of them, and how many of them each judge recognises."""
    import torch

    from rdfia import plots, runs
    from rdfia.adversarial import rounded
    from rdfia.backbones import imagenet_classes
    from rdfia.class_visualization import recognized, visualize_classes

    makers = [args.backbone, *args.ensemble]
    device = networks[args.backbone].mean.device
    classes = torch.tensor(asked, device=device)
    if start is not None:
        start = start.expand(len(classes), -1, -1, -1).to(device)
    due = {round(number * args.steps / args.frames) for number in range(args.frames + 1)}
    frames: list[torch.Tensor] = []

    def watch(step: int, images: torch.Tensor) -> None:
        # Of the first batch of classes: it is enough for a film.
        if len(frames) < len(due) and step in due:
            frames.append(images[:16].cpu())

    images = visualize_classes(
        [networks[name] for name in makers],
        classes,
        size=args.image_size,
        start=start,
        parametrization=args.parametrization,
        steps=args.steps,
        rate=args.rate if args.rate is not None else (5.0 if args.parametrization == "pixels" else 0.05),
        penalty=args.penalty,
        smoothness=args.smoothness,
        blur_every=args.blur_every,
        jitter=args.jitter,
        rotation=args.rotation,
        scale=args.scale,
        seed=args.seed,
        batch_size=args.batch_size,
        watch=watch,
    )
    known = imagenet_classes()
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
    runs.save_film(folder, "film", [plots.sheet(frame, min(6, len(frame))) for frame in frames], trainer)
    return metrics, [f"{len(asked)} classes: {', '.join(known[index] for index in asked)}"]


def attack_images(
    args: Adversarial,
    folder: Path,
    trainer: Any,
    networks: dict[str, Any],
    images: Any,
    labels: Any,
    names: list[str],
) -> tuple[dict[str, list[float]], list[str]]:
    """Attack images with each attack, write them as PNG, read them again and judge; draw; return the figures.

    Only images that the network classifies right count. By attack: success, median L2, PSNR, queries,
    gradients and changed pixels of the successful ones; overlap, the rank correlation of the change with the
    saliency map; by network and attack: transfer, the share of the successful that fool that one too.
    """
    import functools

    import torch

    from rdfia import adversarial, plots, runs
    from rdfia.backbones import imagenet_classes
    from rdfia.saliency import gradient, rank_correlation

    network, size = networks[args.backbone], args.batch_size
    shown = images.to(network.mean.device)
    told = adversarial.predict(network, shown, size)
    truth = torch.where(labels.to(shown.device) >= 0, labels.to(shown.device), told)
    right = (told == truth).nonzero()[:, 0].tolist()
    count = len(images)
    notes = [f"{len(right)} of {count} images are classified right; only they are attacked and count"]
    if (labels < 0).any():
        notes.append(f"where the class is not known, the answer of {args.backbone} stands for it")
    if not right:
        return {}, notes
    shown, truth, names = shown[right], truth[right], [names[place] for place in right]
    targets = pick_targets(args, args.target, network, shown, truth)
    for_fool = pick_targets(args, "random", network, shown, truth) if targets is None else targets
    limit = {"targets": targets, "batch_size": size}
    seeded = limit | {"seed": args.seed}
    gentle, rough = args.epsilon / 255, args.epsilon_eot / 255
    population = min(400, args.queries)
    strong = {"epsilon": rough, "step": rough / 10, "steps": 5 * args.steps, "stop_early": False}
    many = {"transform": adversarial.random_transform, "views": 4}
    pgd, partial = adversarial.pgd, functools.partial
    attacks = {
        "fool": partial(adversarial.fool, targets=for_fool, batch_size=size),
        "fgsm": partial(adversarial.fgsm, epsilon=gentle, **limit),
        "pgd": partial(pgd, epsilon=gentle, steps=args.steps, **seeded),
        "pgd_l2": partial(pgd, epsilon=args.epsilon_l2, norm="l2", steps=args.steps, **seeded),
        # what eot compares with: the same but for the transformations
        "plain": partial(pgd, **strong, **seeded),
        "eot": partial(pgd, **strong, **many, **seeded),
        "pixels": partial(
            adversarial.few_pixels,
            pixels=args.pixels,
            population=population,
            iterations=args.queries // population - 1,
            **seeded,
        ),
        "shapes": partial(
            adversarial.shapes, generations=args.queries // 32, targets=targets, seed=args.seed
        ),
    }
    order = [name for attack in args.attacks for name in (["plain", "eot"] if attack == "eot" else [attack])]
    maps = gradient(network, shown, truth, batch_size=size)
    classes = imagenet_classes()
    metrics: dict[str, list[float]] = {}
    transfer = torch.full((len(order), len(networks)), torch.nan)
    for row, attack in enumerate(order):
        found = attacks[attack](network, shown, truth)
        places = found.success.nonzero()[:, 0].tolist()
        numbers = {"success": found.success_rate(), "success_as_files": 0.0}
        if places:
            wanted = for_fool if attack == "fool" else targets
            asked = None if wanted is None else wanted[places]
            files = [
                kept_as_png(folder, trainer, attack, names[place], found.images[place]) for place in places
            ]
            again = torch.stack(files).to(shown.device)
            told = adversarial.predict(network, again, size)
            hits = adversarial.fooled(told, truth[places], asked)
            numbers["success_as_files"] = float(hits.sum()) / len(shown)
            for name in ("l2", "linf", "psnr", "l0", "queries", "gradients"):
                numbers[f"median_{name}"] = float(getattr(found, name)[places].double().quantile(0.5))
            change = (found.images - shown).abs().amax(1)[places]
            numbers["overlap_with_saliency"] = float(rank_correlation(change, maps[places]).mean())
            if attack in ("plain", "eot"):
                lasting = adversarial.robustness(network, found.images, truth, wanted)
                numbers["under_transformations"] = float(lasting.mean())
            for column, (name, other) in enumerate(networks.items()):
                before = adversarial.predict(other, shown[places], size) == truth[places]
                after = adversarial.predict(other, again, size) != truth[places]
                if before.any():
                    transfer[row, column] = (before & after).sum() / before.sum()
                    numbers[f"transfer/{name}"] = float(transfer[row, column])
            chosen = places[:12]
            titles = [f"{classes[int(truth[p])]}, now {classes[int(found.after[p])]}" for p in chosen]
            pairs = [(shown[p].cpu(), found.images[p].cpu()) for p in chosen]
            title = f"{attack} on {args.backbone}: image, changed image, difference x 10"
            figure = plots.changes(titles, pairs, title=title)
            runs.save_figure(folder, f"attacked_{attack}", figure, trainer)
        metrics |= {f"{attack}/{name}": [value] for name, value in numbers.items()}
        print(f"{attack}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)
    if "eot" in args.attacks:
        clean = adversarial.robustness(network, shown, truth, targets)
        metrics["clean/under_transformations"] = [float(clean.mean())]
    if len(networks) > 1:
        figure = plots.matrix(transfer, order, list(networks), labels=(f"made on {args.backbone}", "fools"))
        runs.save_figure(folder, "transfer", figure, trainer)
    lines = {}
    for attack in [name for name in ("fgsm", "pgd") if name in args.attacks]:
        rates, ever = [], torch.zeros(len(shown), dtype=torch.bool, device=shown.device)
        for level in sorted(args.curve):
            success = attacks[attack](network, shown, truth, epsilon=level / 255).success
            # What pgd found nearer by lies in the larger ball, too; fgsm takes one step of full length.
            ever = success | ever if attack == "pgd" else success
            rates.append(float(ever.double().mean()))
            metrics[f"{attack}/success_at_{level:g}"] = [rates[-1]]
        lines[attack] = (sorted(args.curve), rates)
    if lines:
        figure = plots.curves({"success": lines}, x_label="epsilon, grey levels of 255", log_x=True)
        runs.save_figure(folder, "success", figure, trainer)
    return metrics, notes


def pick_targets(args: Adversarial, target: str, network: Any, images: Any, truth: Any) -> Any:
    """Return the classes (N,) that shall win; None for any. One that is the true class can never win."""
    import torch

    from rdfia.saliency import all_logits

    if target == "any":
        return None
    if target == "least-likely":
        return all_logits(network, images, args.batch_size).argmin(1)
    if target == "random":
        generator = torch.Generator().manual_seed(args.seed)
        steps = torch.randint(1, 1000, (len(images),), generator=generator).to(truth)
        return (truth + steps) % 1000
    return torch.full_like(truth, class_of(target))


def kept_as_png(folder: Path, trainer: Any, attack: str, name: str, image: Any) -> Any:
    """Write an image (3, H, W) in [0, 1] as PNG and return what reading it gives; nothing in a dry run."""
    import numpy as np
    import torch
    from PIL import Image

    from rdfia.runs import is_dry_run, whole_file

    if is_dry_run(trainer):
        return image
    path = folder / "images" / f"{attack}_{name.replace(' ', '_')}.png"
    with whole_file(path) as part:
        pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(part, format="png")
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 255


def last_maps(backbone: Any, image: Any) -> str:
    """Return the name of the deepest layer with maps of more than one place, which are not one per class."""
    layers = backbone.usable_layers()
    outputs = backbone.tap(image.to(backbone.mean.device), layers)
    found = [
        layer
        for layer in layers
        if outputs[layer].ndim == 4 and outputs[layer].shape[-1] > 1 and outputs[layer].shape[1] != 1000
    ]
    if not found:
        raise ValueError(f"{backbone.name} has no layer with maps")
    return str(found[-1])


if __name__ == "__main__":
    run_script(main, Args)  # type: ignore[arg-type] # a union of subcommands

"""Look at pretrained networks: their layers, what they take images for, activation and saliency maps.

Examples:
    python scripts/visualize.py describe --backbone vgg16 --weights random
    python scripts/visualize.py classify --data-dir sample --images cat.jpg holiday/
    python scripts/visualize.py activations --data-dir sample --layer fire2
    python scripts/visualize.py saliency --data-dir sample --compare resnet18
    python scripts/visualize.py adversarial --data-dir sample --attacks fool pgd
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


@dataclass(frozen=True)
class ClassVisualization(Network):
    """Draw images that raise the logit of a class, and see which other networks recognise them."""

    name: str = "class"
    """Of the run folder; the same goes on."""
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
    """Of the run folder; the same goes on."""
    compare: tuple[str, ...] = ()
    """More architectures."""
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
    """Of the run folder; the same goes on."""
    compare: tuple[str, ...] = ()
    """More architectures, for what transfers."""
    attacks: tuple[Literal["fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes"], ...] = ("fool", "pgd")
    """Kinds of attacks."""
    target: str = "random"
    """Class: `random`, `least-likely`, a name, or `any`."""
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
    curve: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Grey levels for the curve of fgsm and pgd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target == "any" and "fool" in self.attacks:
            raise ValueError("fool needs a target; give --target random, least-likely or a class")


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
    if isinstance(args, Saliency):
        asked = class_of(args.of)
    if isinstance(args, ClassVisualization):
        drawn = {name: class_of(name) for name in args.classes}
        if None in drawn.values():
            raise ValueError(f"--classes takes names of ImageNet, got {' '.join(args.classes)}")
    if isinstance(args, Adversarial) and args.target not in ("random", "least-likely", "any"):
        class_of(args.target)
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
        metrics, notes = draw_classes(args, folder, trainer, networks, list(drawn.values()))
    elif isinstance(args, Saliency):
        metrics, notes = draw_saliency(args, folder, trainer, networks, asked, images, labels, names)
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


def class_of(name: str) -> int | None:
    """Return the index of a class by name or number; None for ``true`` and ``predicted``.

    Raises:
        ValueError: There is none; the message names near ones.
    """
    import difflib

    from rdfia.backbones import imagenet_classes

    classes = imagenet_classes()
    if name in ("true", "predicted"):
        return None
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
        cascading_randomization,
        deletion_and_insertion,
        grad_cam,
        gradient,
        integrated_gradients,
        rank_correlation,
        smooth_grad,
        strongest,
    )

    def explain(network: Any, method: str, shown: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        size = {"batch_size": args.batch_size}
        if method == "smooth_grad":
            return smooth_grad(network, shown, classes, samples=args.samples, seed=args.seed, **size)
        if method == "integrated_gradients":
            return strongest(integrated_gradients(network, shown, classes, steps=args.samples, **size))
        if method == "grad_cam":
            layer = network.find_layer(last_maps(network, shown[:1]))
            return grad_cam(network, shown, classes, layer, **size)
        return gradient(network, shown, classes, **size)

    shown = images.to(next(iter(networks.values())).mean.device)
    classes, metrics, every = imagenet_classes(), {}, {}
    predicted = {name: predict(network, shown, args.batch_size) for name, network in networks.items()}
    known = torch.where(labels.to(shown.device) >= 0, labels.to(shown.device), predicted[args.backbone])
    for name, network in networks.items():
        told = (
            predicted[name]
            if args.of == "predicted"
            else known
            if asked is None
            else torch.full_like(known, asked)
        )
        for method in args.methods:
            maps = every[name, method] = explain(network, method, shown, told)
            deletion, insertion = deletion_and_insertion(
                network, shown, told, maps, batch_size=args.batch_size
            )
            few, some = shown[: args.randomized], told[: args.randomized]
            alike = cascading_randomization(
                network, lambda one, method=method, few=few, some=some: explain(one, method, few, some)
            )
            metrics[f"{name}/{method}/deletion"] = [deletion.mean().item()]
            metrics[f"{name}/{method}/insertion"] = [insertion.mean().item()]
            metrics[f"{name}/{method}/randomized"] = [float(list(alike.values())[-1].nanmean())]
            runs.save_figure(
                folder,
                f"randomization_{name}_{method}".replace(":", "_"),
                plots.curves(
                    {
                        "rank correlation with the map": {
                            method: (
                                range(1, len(alike) + 1),
                                [float(one.nanmean()) for one in alike.values()],
                            )
                        }
                    },
                    x_label="layers replaced, from the last",
                    title=name,
                ),
                trainer,
            )
            print(
                f"{name:20}{method:24}"
                + "".join(
                    f"{kind} {metrics[f'{name}/{method}/{kind}'][0]:.3f}  "
                    for kind in ("deletion", "insertion", "randomized")
                ),
                flush=True,
            )
    for method in args.methods:
        for one, other in combinations(networks, 2):
            agreement = rank_correlation(every[one, method], every[other, method]).nanmean()
            metrics[f"{method}/agreement/{one}/{other}"] = [float(agreement)]
    for place, image in enumerate(images):
        rows = {}
        for name, network in networks.items():
            guess = int(predicted[name][place])
            maps = {method.replace("_", " "): every[name, method][place] for method in args.methods}
            if guess != int(known[place]):  # what it looked at when it was wrong
                wrong = explain(network, args.methods[0], shown[[place]], predicted[name][[place]])[0]
                maps = {f"{args.methods[0]} of {classes[guess]}": wrong} | maps
            rows[f"{name}\n{classes[guess]}"] = (image, maps)
        title = f"{names[place]}: {classes[int(known[place])]}"
        figure = plots.saliency(rows, title=title)
        runs.save_figure(folder, f"saliency_{names[place].replace(' ', '_')}", figure, trainer)
    return metrics, [f"over {len(images)} images; randomization over {min(len(images), args.randomized)}"]


def draw_classes(
    args: ClassVisualization, folder: Path, trainer: Any, networks: dict[str, Any], asked: list[Any]
) -> tuple[dict[str, list[float]], list[str]]:
    """Draw classes; return how sure the makers are of them, and how many of them each judge recognises."""
    import torch

    from datamodules.images import decode_all
    from rdfia import plots, runs
    from rdfia.backbones import imagenet_classes
    from rdfia.class_visualization import recognized, visualize_classes

    makers = [args.backbone, *args.ensemble]
    device = networks[args.backbone].mean.device
    classes = torch.tensor(asked, device=device)
    start = None
    if args.start is not None:
        picture = decode_all([args.start], mode="RGB", size=args.image_size, crop=args.image_size)
        start = (picture.float() / 255).expand(len(classes), -1, -1, -1).to(device)
    every = max(1, args.steps // args.frames)
    frames: list[torch.Tensor] = []

    def watch(step: int, images: torch.Tensor) -> None:
        # the first batch is enough for a film
        if len(frames) <= args.frames + 1 and (step % every == 0 or step == args.steps):
            frames.append(images[:16].cpu())

    images = visualize_classes(
        [networks[name] for name in makers],
        classes,
        size=args.image_size,
        start=start,
        parametrization=args.parametrization,
        steps=2 if args.fast_dev_run else args.steps,
        rate=args.rate or (5.0 if args.parametrization == "pixels" else 0.05),
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
    metrics: dict[str, list[float]] = {}
    chances = {}
    for name, network in networks.items():
        chances[name], first = recognized(network, images, classes, top=1)
        _, among = recognized(network, images, classes, top=5)
        metrics[f"{name}/confidence"] = [float(chances[name].mean())]
        metrics[f"{name}/top_1"] = [float(first.double().mean())]
        metrics[f"{name}/top_5"] = [float(among.double().mean())]
        kind = "made them" if name in makers else "judges"
        print(
            f"{name:28}{kind:12}confidence {metrics[f'{name}/confidence'][0]:.3f}, recognised first "
            f"{metrics[f'{name}/top_1'][0]:.2f}, among five {metrics[f'{name}/top_5'][0]:.2f}"
        )
    known = imagenet_classes()
    captions = [
        f"{known[index]}\n" + " ".join(f"{chances[name][place]:.2f}" for name in networks)
        for place, index in enumerate(asked)
    ]
    title = f"made with {', '.join(makers)}; probabilities of {', '.join(networks)}"
    figure = plots.captioned(images, captions, columns=min(6, len(asked)), title=title, side=2.6)
    runs.save_figure(folder, "classes", figure, trainer)
    for place, index in enumerate(asked):
        kept_as_png(folder, trainer, "class", known[index], images[place].cpu())
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

    network = networks[args.backbone]
    shown = images.to(network.mean.device)
    told = adversarial.predict(network, shown, args.batch_size)
    truth = torch.where(labels >= 0, labels, told.cpu()).to(shown.device)
    targets = pick_targets(args, network, shown, truth)
    limit = {"targets": targets, "seed": args.seed}
    gentle, rough = args.epsilon / 255, args.epsilon_eot / 255
    population = min(400, args.queries)
    attacks = {
        "fool": functools.partial(adversarial.fool, targets=truth if targets is None else targets),
        "fgsm": functools.partial(adversarial.fgsm, epsilon=gentle, targets=targets),
        "pgd": functools.partial(adversarial.pgd, epsilon=gentle, steps=args.steps, **limit),
        "pgd_l2": functools.partial(
            adversarial.pgd, epsilon=args.epsilon_l2, norm="l2", steps=args.steps, **limit
        ),
        "eot": functools.partial(
            adversarial.pgd,
            epsilon=rough,
            step=rough / 10,
            steps=5 * args.steps,
            stop_early=False,
            transform=adversarial.random_transform,
            views=4,
            **limit,
        ),
        "pixels": functools.partial(
            adversarial.few_pixels,
            pixels=args.pixels,
            population=population,
            iterations=max(1, args.queries // population - 1),
            batch_size=args.batch_size,
            **limit,
        ),
        "shapes": functools.partial(adversarial.shapes, generations=max(1, args.queries // 32), **limit),
    }
    maps = gradient(network, shown, truth, batch_size=args.batch_size)
    classes, metrics = imagenet_classes(), {}
    transfer = torch.full((len(args.attacks), len(networks)), torch.nan)
    for row, attack in enumerate(args.attacks):
        found = attacks[attack](network, shown, truth)
        places = found.success.nonzero()[:, 0].tolist()
        read = [kept_as_png(folder, trainer, attack, names[place], found.images[place]) for place in places]
        again = torch.stack(read).to(shown.device) if read else shown[:0]
        told = adversarial.predict(network, again, args.batch_size) if read else truth[:0]
        asked = None if targets is None else targets[places]
        as_files = adversarial.fooled(told, truth[places], asked).double()
        right = int(found.right_before.sum())
        metrics[f"{attack}/success"] = [found.success_rate()]
        metrics[f"{attack}/success_as_files"] = [float(as_files.sum()) / right if right else float("nan")]
        for name in ("l2", "linf", "psnr", "l0", "queries", "gradients"):
            values = getattr(found, name)[places].double()
            metrics[f"{attack}/median_{name}"] = [float(values.median()) if places else float("nan")]
        change = (found.images - shown).abs().amax(1)[places]
        overlap = rank_correlation(change, maps[places]).nanmean() if places else torch.tensor(torch.nan)
        metrics[f"{attack}/overlap_with_saliency"] = [float(overlap)]
        if attack in ("pgd", "eot") and places:
            lasting = adversarial.robustness(network, again, truth[places], asked, views=20).mean()
            metrics[f"{attack}/under_transformations"] = [float(lasting)]
        for column, (name, other) in enumerate(networks.items()):
            if places:
                before = adversarial.predict(other, shown[places], args.batch_size) == truth[places]
                after = adversarial.predict(other, again, args.batch_size) != truth[places]
                share = (before & after).sum() / before.sum().clamp(min=1)
                transfer[row, column] = share
                metrics[f"{attack}/transfer/{name}"] = [float(share)]
        pairs = {
            f"{classes[int(truth[place])]}, now {classes[int(found.after[place])]}": (
                images[place],
                found.images[place].cpu(),
            )
            for place in places[:12]
        }
        if pairs:
            title = f"{attack} on {args.backbone}: image, changed image, difference x 10"
            runs.save_figure(folder, f"attacked_{attack}", plots.changes(pairs, title=title), trainer)
        shares = ", ".join(
            f"{name.split('/')[1]} {value:.4g}"
            for name, (value,) in metrics.items()
            if name.startswith(f"{attack}/") and "transfer" not in name
        )
        print(f"{attack}: {shares}", flush=True)
    if len(networks) > 1:
        figure = plots.matrix(
            transfer, list(args.attacks), list(networks), labels=(f"made on {args.backbone}", "fools")
        )
        runs.save_figure(folder, "transfer", figure, trainer)
    lines = {}
    for attack in {"fgsm", "pgd"} & set(args.attacks):
        rates = [
            attacks[attack](network, shown, truth, epsilon=level / 255).success_rate() for level in args.curve
        ]
        metrics |= {
            f"{attack}/success_at_{level:g}": [rate] for level, rate in zip(args.curve, rates, strict=True)
        }
        lines[attack] = (list(args.curve), rates)
    if lines:
        figure = plots.curves({"success": lines}, x_label="epsilon, grey levels of 255", log_x=True)
        runs.save_figure(folder, "success", figure, trainer)
    return metrics, [f"{right} of {len(images)} images are classified right; only they count"]


def pick_targets(args: Adversarial, network: Any, images: Any, truth: Any) -> Any:
    """Return the classes (N,) that shall win, none of them the true one; None for any."""
    import torch

    if args.target == "any":
        return None
    if args.target == "least-likely":
        with torch.no_grad():
            parts = [network(part).argmin(1) for part in torch.split(images, args.batch_size)]
        return torch.cat(parts)
    if args.target == "random":
        generator = torch.Generator().manual_seed(args.seed)
        steps = torch.randint(1, 1000, (len(images),), generator=generator).to(truth)
        return (truth + steps) % 1000
    index = class_of(args.target)
    targets = torch.full_like(truth, int(index or 0))
    if (targets == truth).any():
        raise ValueError(f"--target {args.target} is the true class of an image; take another")
    return targets


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
    """Return the name of the deepest layer whose output has maps of more than one place."""
    found = None
    for layer in backbone.usable_layers():
        output = backbone.tap(image, [layer])[layer]
        if output.ndim == 4 and output.shape[-1] > 1:
            found = layer
    if found is None:
        raise ValueError(f"{backbone.name} has no layer with maps")
    return str(found)


if __name__ == "__main__":
    run_script(main, Args)  # type: ignore[arg-type] # a union of subcommands

"""The subcommand adversarial of visualize.py: attacks, judged as files hold them, and what transfers."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visualize_common import (
    Numbers,
    Pictures,
    Shown,
    class_of,
    kept_as_png,
    known_classes,
    notes_on_classes,
)

if TYPE_CHECKING:
    import torch

    from rdfia.adversarial import Attacked

NO_CLASS = ("any", "random", "least-likely")  # what --target is besides names


@dataclass(frozen=True)
class Adversarial(Pictures):
    """Change images so little that nobody sees it, and so that the network is fooled."""

    name: str = "adversarial"
    """Of the run folder."""
    compare: tuple[str, ...] = ()
    """More architectures, for what transfers."""
    attacks: tuple[Literal["fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes", "patch"], ...] = (
        "fool",
        "pgd",
    )
    """Kinds of attacks."""
    target: str = "any"
    """Class: `any`, `random`, `least-likely`, a name; of fool and eot, `any` is `random`."""
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
    patch_size: int = 64
    """Side of the patch."""
    patch_steps: int = 400
    """To make it."""
    curve: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Grey levels for the curve of fgsm and pgd."""
    curve_l2: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Distances for the curve of pgd_l2."""
    matrix: Literal["fool", "fgsm", "pgd", "pgd_l2"] | None = None
    """Make it on each network, for the matrix of what fools which."""
    influence: int = 0
    """Random targets of each image, to see what a target costs."""


def prepare_attacks(
    args: Adversarial, networks: dict[str, Any], shown: Shown
) -> Callable[[Path, Any], Numbers]:
    """Check target and weights; return what attacks, judges and draws, for a folder and a trainer."""
    if args.target not in NO_CLASS:
        class_of(args.target)
    for network in networks.values():
        network.check_complete()
    if args.patch_size >= args.image_size and "patch" in args.attacks:
        raise ValueError(f"--patch-size is below --image-size {args.image_size}, got {args.patch_size}")
    return functools.partial(attack_images, args, networks, shown)


def aim(args: Adversarial, name: str) -> str:
    """Return what an attack aims at: a transformation alone makes an image wrong, but not a given class."""
    return "random" if args.target == "any" and name in ("fool", "plain", "eot") else args.target


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


def classified_right(
    shown: Shown, network: Any, batch_size: int
) -> "tuple[torch.Tensor, torch.Tensor, list[int]]":
    """Return the images (N, 3, H, W) that a network classifies right, their classes (N,) and their places."""
    from rdfia.adversarial import predict

    images = shown.images.to(network.mean.device)
    told = predict(network, images, batch_size)
    truth = known_classes(shown, told)
    right = (told == truth).nonzero()[:, 0].tolist()
    return images[right], truth[right], right


def attack(
    args: Adversarial, name: str, network: Any, images: Any, truth: Any, *, epsilon: float | None = None
) -> "tuple[Attacked, torch.Tensor | None]":
    """Attack images (N, 3, H, W); return what came of it, and the targets (N,).

    Args:
        args: The flags.
        name: Of the attack; ``plain`` is what ``eot`` compares with: the same but for the transformations.
        network: To be fooled.
        images: In [0, 1].
        truth: Their classes (N,).
        epsilon: In place of the flag's, in pixel units.
    """
    import torch

    from rdfia import adversarial, black_box, robust_attacks

    targets = pick_targets(args, aim(args, name), network, images, truth)
    limit = {"targets": targets, "batch_size": args.batch_size}
    seeded, population = limit | {"seed": args.seed}, min(400, args.queries)
    gentle, rough = (epsilon or args.epsilon / 255), args.epsilon_eot / 255
    strong = seeded | {"epsilon": rough, "step": rough / 10, "steps": 5 * args.steps, "stop_early": False}
    pgd = functools.partial(adversarial.pgd, network, images, truth)
    # Attacks that ask thousands of times and need no gradient.
    asked = torch.compile(network, options={"freezing": True}) if args.compile else network
    attacks: dict[str, Callable[[], Attacked]] = {
        "fool": lambda: adversarial.fool(network, images, truth, **limit),
        "fgsm": lambda: adversarial.fgsm(network, images, truth, epsilon=gentle, **limit),
        "pgd": lambda: pgd(epsilon=gentle, steps=args.steps, **seeded),
        "pgd_l2": lambda: pgd(epsilon=epsilon or args.epsilon_l2, norm="l2", steps=args.steps, **seeded),
        "plain": lambda: pgd(**strong),
        "eot": lambda: pgd(**strong, transform=robust_attacks.random_transform, views=4),
        "pixels": lambda: black_box.few_pixels(
            asked,
            images,
            truth,
            pixels=args.pixels,
            population=population,
            iterations=args.queries // population - 1,
            **seeded,
        ),
        "shapes": lambda: black_box.shapes(
            asked, images, truth, generations=args.queries // 32, targets=targets, seed=args.seed
        ),
    }
    return attacks[name](), targets


def attack_images(
    args: Adversarial, networks: dict[str, Any], shown: Shown, folder: Path, trainer: Any
) -> Numbers:
    """Attack images with each attack, write them as PNG, read them again and judge; draw; return the figures.

    Only images that the network classifies right count. By attack: success, median L2, PSNR, queries,
    gradients and changed pixels of the successful ones; overlap, the rank correlation of the change with the
    saliency map; by network and attack: transfer, the share of the successful that fool that one too.
    """
    import torch
    import visualize_attacks_compared as compared

    from rdfia import plots, robust_attacks, runs
    from rdfia.saliency import gradient

    network, size = networks[args.backbone], args.batch_size
    images, truth, right = classified_right(shown, network, size)
    notes = [
        f"{len(right)} of {len(shown.images)} images are classified right; only they are attacked and count"
    ]
    notes += notes_on_classes(shown, args.backbone)
    if not right:
        return {}, notes
    names = [shown.names[place] for place in right]
    order = [name for one in args.attacks for name in (["plain", "eot"] if one == "eot" else [one])]
    maps = gradient(network, images, truth, batch_size=size)
    metrics: dict[str, list[float]] = {}
    for name in order:
        if name == "patch":
            numbers = compared.attack_with_patch(args, network, images, truth, folder, trainer)
        else:
            found, targets = attack(args, name, network, images, truth)
            numbers = judge(
                args, name, networks, (images, truth, targets), found, maps, names, folder, trainer
            )
        metrics |= {f"{name}/{number}": [value] for number, value in numbers.items()}
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()), flush=True)
    if "eot" in args.attacks:
        targets = pick_targets(args, aim(args, "eot"), network, images, truth)
        clean = robust_attacks.robustness(network, images, truth, targets)
        metrics["clean/under_transformations"] = [float(clean.mean())]
    if len(networks) > 1:
        shares = [
            [metrics.get(f"{name}/transfer/{other}", [torch.nan])[0] for other in networks] for name in order
        ]
        labels = (f"made on {args.backbone}", "fools")
        figure = plots.matrix(torch.tensor(shares), order, list(networks), labels=labels)
        runs.save_figure(folder, "transfer", figure, trainer)
    metrics |= compared.success_curves(args, network, images, truth, folder, trainer)
    if args.matrix:
        metrics |= compared.transfer_matrix(args, args.matrix, networks, shown, folder, trainer)
    if args.influence:
        metrics |= compared.influence_of_targets(args, network, images, truth, folder, trainer)
    return metrics, notes


def judge(
    args: Adversarial,
    name: str,
    networks: dict[str, Any],
    attacked: "tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]",
    found: "Attacked",
    maps: "torch.Tensor",
    names: list[str],
    folder: Path,
    trainer: Any,
) -> dict[str, float]:
    """Write what an attack made as PNG, read it again, judge it by all networks, draw it; return numbers.

    Args:
        args: The flags.
        name: Of the attack.
        networks: By name; the attack was made on ``args.backbone``.
        attacked: Images, their classes and the targets.
        found: What came of it.
        maps: Saliency maps (N, H, W) of the images.
        names: Of the images.
        folder: The run folder.
        trainer: Says whether it is a dry run.
    """
    import torch

    from rdfia import adversarial, network_plots, robust_attacks, runs
    from rdfia.backbones import imagenet_classes
    from rdfia.saliency import rank_correlation

    images, truth, targets = attacked
    network, size, classes = networks[args.backbone], args.batch_size, imagenet_classes()
    places = found.success.nonzero()[:, 0].tolist()
    numbers = {"success": found.success_rate(), "success_as_files": 0.0}
    if not places:
        return numbers
    files = [kept_as_png(folder, trainer, name, names[place], found.images[place]) for place in places]
    again = torch.stack(files).to(images.device)
    told = adversarial.predict(network, again, size)
    hits = adversarial.fooled(told, truth[places], adversarial.some(targets, found.success))
    numbers["success_as_files"] = float(hits.sum()) / len(images)
    for score in ("l2", "linf", "psnr", "l0", "queries", "gradients"):
        numbers[f"median_{score}"] = float(getattr(found, score)[places].double().quantile(0.5))
    change = (found.images - images).abs().amax(1)[places]
    numbers["overlap_with_saliency"] = float(rank_correlation(change, maps[places]).mean())
    if name in ("plain", "eot"):
        lasting = robust_attacks.robustness(network, found.images, truth, targets)
        numbers["under_transformations"] = float(lasting.mean())
    for other_name, other in networks.items():
        share = also_fooled(other, images[places], again, truth[places], size)
        if share is not None:
            numbers[f"transfer/{other_name}"] = share
    chosen = places[:12]
    titles = [f"{classes[int(truth[p])]}, now {classes[int(found.after[p])]}" for p in chosen]
    pairs = [(images[p].cpu(), found.images[p].cpu()) for p in chosen]
    title = f"{name} on {args.backbone}: image, changed image, difference x 10"
    runs.save_figure(folder, f"attacked_{name}", network_plots.changes(titles, pairs, title=title), trainer)
    return numbers


def also_fooled(
    network: Any, images: "torch.Tensor", changed: "torch.Tensor", truth: "torch.Tensor", batch_size: int
) -> float | None:
    """Return which share of what a network had right it has wrong when changed; None if it had none right."""
    from rdfia.adversarial import predict

    before = predict(network, images, batch_size) == truth
    after = predict(network, changed, batch_size) != truth
    return float((before & after).sum() / before.sum()) if before.any() else None

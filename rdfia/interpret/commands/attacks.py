"""What the subcommand adversarial needs, and each attack on one network."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from rdfia.common.draws import keyed_generator
from rdfia.interpret import adversarial, black_box_attacks, robust_attacks
from rdfia.interpret.attack_results import Attacked, rounded
from rdfia.interpret.classifier import all_logits, predict
from rdfia.interpret.commands.common import Shown, class_of, classes_of, known_classes
from rdfia.interpret.config import DISCS, NO_CLASS, Adversarial


def aim(args: Adversarial, name: str) -> str:
    """Return what an attack aims at: a transformation alone makes an image wrong, but not a given class."""
    return "random" if args.target == "any" and name in ("fool", "plain", "eot") else args.target


def pick_targets(args: Adversarial, target: str, network: Any, images: Any, truth: Any) -> Any:
    """Return the classes (N,) that shall win; None for any. One that is the true class can never win."""
    if target == "any":
        return None
    if target == "least-likely":
        return all_logits(network, images, args.batch_size).argmin(1)
    if target == "random":
        count = len(classes_of(network))
        generator = torch.Generator().manual_seed(args.seed)
        steps = torch.randint(1, count, (len(images),), generator=generator).to(truth)
        return (truth + steps) % count
    return torch.full_like(truth, class_of(target, classes_of(network)))


def to_attack(
    args: Adversarial, shown: Shown, network: Any
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[str]]:
    """Return the images (N, 3, H, W) that can be fooled, their classes (N,), their indices, and what to say.

    Those that the network classifies right, and that are not of the class that ``--target`` names.
    """
    images = shown.images.to(network.mean.device)
    predicted = predict(network, images, args.batch_size)
    truth = known_classes(shown, predicted)
    can = predicted == truth
    notes = [
        f"{int(can.sum())} of {len(images)} images are classified right; only they are attacked and count"
    ]
    if args.target not in NO_CLASS:
        of_target = can & (truth == class_of(args.target, classes_of(network)))
        if of_target.any():
            notes.append(f"{int(of_target.sum())} of these are left out, as they are of the target's class")
        can &= ~of_target
    places = can.nonzero()[:, 0].tolist()
    return images[places], truth[places], places, notes


def attack(
    args: Adversarial, name: str, network: Any, images: Any, truth: Any, *, epsilon: float | None = None
) -> tuple[Attacked, torch.Tensor | None]:
    """Attack images (N, 3, H, W); return what came of it, and the targets (N,).

    Args:
        args: The flags.
        name: Of the attack; ``plain`` is what ``eot`` compares with: the same but for the transformations.
        network: To be fooled.
        images: In [0, 1].
        truth: Their classes (N,).
        epsilon: In place of the flag's, in pixel units.
    """
    targets = pick_targets(args, aim(args, name), network, images, truth)
    limit = {"targets": targets, "batch_size": args.batch_size}
    seeded, population = limit | {"seed": args.seed}, min(400, args.queries)
    gentle, rough = (args.epsilon / 255 if epsilon is None else epsilon), args.epsilon_eot / 255
    within = args.epsilon_l2 if epsilon is None else epsilon  # the radius of a ball
    strong = seeded | {"epsilon": rough, "step": rough / 10, "steps": 5 * args.steps, "stop_early": False}
    pgd = functools.partial(adversarial.pgd, network, images, truth)
    # Attacks that ask thousands of times and need no gradient.
    asked: Any = torch.compile(network, options={"freezing": True}) if args.compile else network
    attacks: dict[str, Callable[[], Attacked]] = {
        "fool": lambda: adversarial.fool(network, images, truth, **limit),
        "fgsm": lambda: adversarial.fgsm(network, images, truth, epsilon=gentle, **limit),
        "pgd": lambda: pgd(epsilon=gentle, steps=args.steps, **seeded),
        "pgd_l2": lambda: pgd(epsilon=within, norm="l2", steps=args.steps, **seeded),
        "plain": lambda: pgd(**strong),
        "eot": lambda: pgd(**strong, transform=robust_attacks.random_transform, views=4),
        "pixels": lambda: black_box_attacks.few_pixels(
            asked,
            images,
            truth,
            pixels=args.pixels,
            population=population,
            iterations=args.queries // population - 1,
            **seeded,
        ),
        "shapes": lambda: black_box_attacks.shapes(
            asked,
            images,
            truth,
            generations=(args.queries - 1) // DISCS,
            candidates=DISCS,
            seed=args.seed,
            **limit,
        ),
    }
    return attacks[name](), targets


def also_fooled(
    network: Any, images: torch.Tensor, changed: torch.Tensor, truth: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Return, of each image that a network had right, whether it has it wrong when changed, (M,) bool."""
    before = predict(network, images, batch_size) == truth
    after = predict(network, changed, batch_size) != truth
    return after[before]


def scrambled(images: torch.Tensor, changed: torch.Tensor, seed: int) -> torch.Tensor:
    """Return images (N, 3, H, W) with the same changes at other pixels, drawn at random, as 8 bits hold them.

    Noise as long as the change in every norm, but for what [0, 1] cuts off: what it fools, an attack fools
    without any aim.
    """
    change = (changed - images).flatten(2)
    orders = [
        torch.randperm(change.shape[2], generator=keyed_generator((seed, n))) for n in range(len(change))
    ]
    moved = [one[:, order.to(one.device)] for one, order in zip(change, orders, strict=True)]
    return rounded(images + torch.stack(moved).reshape(images.shape))


def share(name: str, hits: torch.Tensor) -> dict[str, list[float]]:
    """Return the share of hits (N,), and of how many, as metrics; `write_results` adds the interval."""
    return {name: [float(hits.double().mean())], f"{name}_of": [float(hits.numel())]}

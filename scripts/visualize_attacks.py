"""What the subcommand adversarial of visualize.py is told, and each attack on one network."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from visualize_common import Pictures, Shown, class_of, known_classes

if TYPE_CHECKING:
    import torch

    from rdfia.interpret.adversarial import Attacked

NO_CLASS = ("any", "random", "least-likely")  # what --target is besides names
DISCS = 32  # that shapes tries at once for one of those that it draws


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.influence > 999:
            raise ValueError(
                f"--influence is at most 999, the other classes of ImageNet, got {self.influence}"
            )
        if "shapes" in self.attacks and self.queries <= DISCS:
            raise ValueError(
                f"--queries is at least {DISCS + 1} for shapes, one and a generation, got {self.queries}"
            )


def aim(args: Adversarial, name: str) -> str:
    """Return what an attack aims at: a transformation alone makes an image wrong, but not a given class."""
    return "random" if args.target == "any" and name in ("fool", "plain", "eot") else args.target


def pick_targets(args: Adversarial, target: str, network: Any, images: Any, truth: Any) -> Any:
    """Return the classes (N,) that shall win; None for any. One that is the true class can never win."""
    import torch

    from rdfia.interpret.classifier import all_logits

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
    from rdfia.interpret.classifier import predict

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

    from rdfia.interpret import adversarial, black_box_attacks, robust_attacks

    targets = pick_targets(args, aim(args, name), network, images, truth)
    limit = {"targets": targets, "batch_size": args.batch_size}
    seeded, population = limit | {"seed": args.seed}, min(400, args.queries)
    gentle, rough = (args.epsilon / 255 if epsilon is None else epsilon), args.epsilon_eot / 255
    within = args.epsilon_l2 if epsilon is None else epsilon  # the radius of a ball
    strong = seeded | {"epsilon": rough, "step": rough / 10, "steps": 5 * args.steps, "stop_early": False}
    pgd = functools.partial(adversarial.pgd, network, images, truth)
    # Attacks that ask thousands of times and need no gradient.
    asked = torch.compile(network, options={"freezing": True}) if args.compile else network
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
    network: Any, images: "torch.Tensor", changed: "torch.Tensor", truth: "torch.Tensor", batch_size: int
) -> "torch.Tensor":
    """Return, of each image that a network had right, whether it has it wrong when changed, (M,) bool."""
    from rdfia.interpret.classifier import predict

    before = predict(network, images, batch_size) == truth
    after = predict(network, changed, batch_size) != truth
    return after[before]


def scrambled(images: "torch.Tensor", changed: "torch.Tensor", seed: int) -> "torch.Tensor":
    """Return images (N, 3, H, W) with the same changes at other pixels, drawn at random, as 8 bits hold them.

    Noise as long as the change in every norm, but for what [0, 1] cuts off: what it fools, an attack fools
    without any aim.
    """
    import torch

    from rdfia.common.draws import keyed_generator
    from rdfia.interpret.adversarial import rounded

    change = (changed - images).flatten(2)
    orders = [
        torch.randperm(change.shape[2], generator=keyed_generator((seed, n))) for n in range(len(change))
    ]
    moved = [one[:, order.to(one.device)] for one, order in zip(change, orders, strict=True)]
    return rounded(images + torch.stack(moved).reshape(images.shape))


def share(name: str, hits: "torch.Tensor") -> dict[str, list[float]]:
    """Return the share of hits (N,), and of how many, as metrics; `write_results` adds the interval."""
    return {name: [float(hits.double().mean())], f"{name}_of": [float(hits.numel())]}

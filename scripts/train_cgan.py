"""Train a conditional DCGAN on MNIST, score its digits with the digit judge, draw the figures.

Examples:
    python scripts/train_cgan.py --data-dir sample --max-epochs 20
    python scripts/train_cgan.py --seeds 0 1 2 --compare no-label-in-discriminator
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import train_gan
from gan_tables import compare

from rdfia.engine.cli import run_script

if TYPE_CHECKING:
    import torch

    from rdfia.common.plots import Figure
    from rdfia.generation.cgan import cGANModule

# What can be trained for comparison, and the flags in which it differs.
ROWS: dict[str, dict[str, Any]] = {
    "one-hot": {"conditioning": "one-hot"},
    "embedding": {"conditioning": "embedding"},
    "projection": {"conditioning": "projection"},
    "no-label-in-discriminator": {"label_in_discriminator": False},
    "nz-10": {"latent_dim": 10},
    "nz-1000": {"latent_dim": 1000},
}


@dataclass(frozen=True)
class Args(train_gan.GANArgs):
    """Train a conditional DCGAN on MNIST and score its digits with the digit judge."""

    name: str = "cgan"
    """Of the run folder; the same goes on."""
    conditioning: Literal["one-hot", "embedding", "projection"] | None = None
    """How the networks are told the label: projection, practical one-hot."""
    label_in_discriminator: bool = True
    """Tell the discriminator the label too."""
    compare: tuple[
        Literal["one-hot", "embedding", "projection", "no-label-in-discriminator", "nz-10", "nz-1000"], ...
    ] = ()
    """Trained besides, with the same settings."""


def style_scores(module: "cGANModule", count: int = 1000) -> dict[str, float]:
    """Return how far one latent means one style: the correlation of slant and of thickness over the digits.

    Beside each what chance gives: the same digits, each paired with those of other latents.
    """
    import torch

    from rdfia.generation.digit_style import slant, style_correlation, thickness

    scores = {}
    together = module.class_grid(module.draw(count, 6))
    shuffled = torch.stack([together[digit].roll(digit, 0) for digit in range(10)])
    for moment in (slant, thickness):
        for name, grid in {"": together, "_of_shuffled_pairs": shuffled}.items():
            moments = torch.stack([moment(row) for row in grid], 1)
            scores[f"{moment.__name__}_correlation{name}"] = float(style_correlation(moments))
    return scores


def build(args: Args) -> "cGANModule":
    """Return the module that the flags describe."""
    from rdfia.generation.cgan import cGANModule

    conditioning = args.conditioning or ("one-hot" if args.preset == "practical" else "projection")
    own = {"conditioning": conditioning, "label_in_discriminator": args.label_in_discriminator}
    return cGANModule(**own, **train_gan.module_flags(args))


def train(args: Args) -> dict[str, Any]:
    """Train one conditional GAN, test it, draw; return the content of results.json."""
    from rdfia.common import plots

    def preview(gan: "cGANModule") -> "torch.Tensor":
        return gan.class_grid(gan.preview_latents).flatten(0, 1)

    def figures(gan: "cGANModule") -> dict[str, "Figure"]:
        grid = gan.class_grid(gan.draw(16, 7)).flatten(0, 1)
        title = "each row a digit, each column one latent"
        return {"styles": plots.image_grids({title: grid}, columns=16)}

    def scores(gan: "cGANModule") -> dict[str, float]:
        return style_scores(gan, 50 if args.fast_dev_run else 1000)

    return train_gan.run(args, build, preview, figures, technique="cgan", more_scores=scores)


def main(args: Args) -> dict[str, Any]:
    """Train what is asked for; return the content of results.json."""
    from rdfia.engine import devices

    args = devices.settle(args)
    if not (args.seeds or args.compare):
        if args.part is not None:
            raise ValueError("--part is one of a table; add --seeds or --compare")
        return train(args)
    if args.compare and args.score_on == "auto":
        args = dataclasses.replace(args, score_on="held-out")
    rows: dict[str, dict[str, Any]] = {args.preset: {}} | {row: ROWS[row] for row in args.compare}
    return compare(args, build, rows, train, train_gan.read_digits(args).describe())


if __name__ == "__main__":
    run_script(main, Args)

"""Train a DCGAN on MNIST, score its digits with the digit judge, draw the figures.

Examples:
    python scripts/train_gan.py --data-dir sample --max-epochs 20
    python scripts/train_gan.py --preset practical --seeds 0 1 2
    python scripts/train_gan.py --preset practical --ablation all --name gan_ablation
    python scripts/train_gan.py --preset practical --ablation ladder --name gan_ladder
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gan_tables import ABLATION, LADDER, TRIED, compare

from rdfia.engine.args import TrainerArgs, check_part
from rdfia.engine.cli import run_script

if TYPE_CHECKING:
    import numpy as np
    import torch

    from datamodules.mnist import MNISTDataModule
    from rdfia.common.plots import Figure
    from rdfia.generation.gan import GANModule


@dataclass(frozen=True)
class GANArgs(TrainerArgs):
    """Flags of a GAN of either kind."""

    preset: Literal["best", "practical"] = "best"
    """Sets the flags that are not given."""
    batch_size: int | None = None  # type: ignore[assignment] # an int once it is made
    """Images in a step: 64, or 128."""
    seeds: tuple[int, ...] = ()
    """Train with each, not with --seed."""
    part: tuple[int, int] | None = None
    """One, from 0, of so many parts of a table."""
    score_on: Literal["auto", "test", "held-out", "both"] = "auto"
    """Digits to score against; auto: held-out ones for tables."""
    latent_dim: int | None = None
    """Numbers in a latent vector."""
    latents: Literal["normal", "uniform"] | None = None
    """Their distribution."""
    generator_features: int | None = None
    """Width of the generator (ngf)."""
    discriminator_features: int | None = None
    """Width of the discriminator (ndf)."""
    upsampling: Literal["transposed", "nearest"] | None = None
    """How the generator enlarges maps."""
    initialization: Literal["dcgan", "pytorch", "orthogonal"] | None = None
    """Of the weights."""
    loss: Literal["non-saturating", "minimax", "least-squares", "hinge"] | None = None
    """What both networks minimise."""
    label_smoothing: float | None = None
    """Score real images 1 less this."""
    discriminator_steps: int | None = None
    """For one step of the generator."""
    r1: float | None = None
    """Weight of the R1 penalty."""
    generator_lr: float | None = None
    """Adam's rate for the generator."""
    discriminator_lr: float | None = None
    """Adam's rate for the discriminator."""
    beta1: float | None = None
    """Adam's first decay."""
    beta2: float | None = None
    """Adam's second decay."""
    decay: Literal["none", "linear", "cosine"] | None = None
    """Of both rates."""
    average_decay: float | None = None
    """Of the average generator."""

    def needs(self) -> tuple[str, ...]:
        """Return MNIST."""
        return ("mnist",)

    def __post_init__(self) -> None:
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", 128 if self.preset == "practical" else 64)
        super().__post_init__()
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds are at least 0, got {min(self.seeds)}")
        check_part(self.part, self.overwrite)


@dataclass(frozen=True)
class Args(GANArgs):
    """Train a DCGAN on MNIST and score its digits with the digit judge."""

    name: str = "gan"
    """Of the run folder; the same goes on."""
    groups: int | None = None
    """Of like images, found by k-means; 0 for none."""
    interpolate: tuple[str, ...] = ("89", "94", "17", "35")
    """Digits to walk between; none for no walks."""
    ablation: tuple[
        Literal["ngf", "ndf", "nz", "init", "lr", "loss", "epochs", "all", "ladder", "tried"], ...
    ] = ()
    """Train these changes besides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.interpolate:
            if len(pair) != 2 or not pair.isdecimal():
                raise ValueError(f"--interpolate takes pairs of digits such as 89, got {pair}")
        for group in self.ablation:
            preset = "best" if group == "tried" else "practical"
            if self.preset != preset:
                raise ValueError(f"--ablation {group} changes another recipe; add --preset {preset}")


def module_flags(args: GANArgs) -> dict[str, Any]:
    """Return the keywords of `GANModule` that follow from the flags."""
    from rdfia.generation.gan import PRACTICAL, GANModule

    keywords = inspect.signature(GANModule).parameters
    own = [field.name for field in dataclasses.fields(args) if field.name in keywords]
    given = {name: value for name in own if (value := getattr(args, name)) is not None}
    return (PRACTICAL if args.preset == "practical" else {}) | given


def build(args: Args) -> "GANModule":
    """Return the module that the flags describe."""
    from rdfia.generation.gan import GANModule

    return GANModule(**module_flags(args))


def read_digits(args: GANArgs) -> "MNISTDataModule":
    """Return MNIST at the size of the networks; validation digits are trained on too, unless they score."""
    from datamodules.mnist import MNISTDataModule

    digits = MNISTDataModule(
        args.data_dir,
        batch_size=args.batch_size,
        image_size=32,
        seed=args.seed,
        train_on_val=args.score_on in ("auto", "test"),
    )
    digits.setup()
    digits.train_dataloader()  # says now if they are fewer than a batch
    return digits


def loss_numbers(history: Mapping[str, tuple[list[float], list[float]]], epoch: int) -> dict[str, float]:
    """Return what the curves of a training say as numbers.

    Both losses, means over the last ``epoch`` batches; loss_swing, the standard deviation of the generator's
    loss over those; discriminator_wins, the share of all batches in which the discriminator is wrong about
    none of the images.
    """
    import numpy as np

    values = {
        name: np.array(history[f"train/{name}"][1]) for name in ("discriminator_loss", "generator_loss")
    }
    last = {name: loss[-epoch:] for name, loss in values.items()}
    # The generator has no loss in batches in which it does not step.
    steps = last["generator_loss"][~np.isnan(last["generator_loss"])]
    return {
        "final_discriminator_loss": float(last["discriminator_loss"].mean()),
        "final_generator_loss": float(steps.mean()) if len(steps) else float("nan"),
        "loss_swing": float(steps.std()) if len(steps) else float("nan"),
        "discriminator_wins": float(np.mean(np.array(history["train/discriminator_accuracy"][1]) == 1)),
    }


def ways(module: "GANModule") -> list[Literal["linear", "slerp"]]:
    """Return how to walk between latents: an arc between uniform ones leaves the cube they are drawn from."""
    return ["linear", "slerp"] if module.latents == "normal" else ["linear"]


def halfway_scores(module: "GANModule", count: int) -> dict[str, float]:
    """Return the `confident_share` of ``count`` images, each halfway between two latents, by way."""
    import torch

    from rdfia.generation.digit_judge import confident_share
    from rdfia.generation.latents import interpolate

    first, second = module.draw(count, 8), module.draw(count, 9)
    with torch.no_grad():
        halfway = {how: module(interpolate(first, second, 0.5, how)) for how in ways(module)}
        return {
            f"halfway_confident_share_{how}": float(confident_share(module.scores.judge(images)))
            for how, images in halfway.items()
        }


def walks(module: "GANModule", pairs: list[tuple[int, int]], steps: int) -> dict[str, "torch.Tensor"]:
    """Generate walks between digits, along the line and along the arc.

    Args:
        module: The generator.
        pairs: Digits to begin and to end with; the latents are those whose digit the judge is surest of.
        steps: Images in a walk.

    Returns:
        By name of the way, images (pairs x steps, 1, 32, 32) in [0, 1].
    """
    import torch

    from rdfia.generation.latents import interpolate

    latents = module.draw(1000, 5)
    with torch.no_grad():
        surest = module.scores.judge(module(latents)).softmax(1).argmax(0)
        alpha = torch.linspace(0, 1, steps)
        ends = [(latents[surest[first]], latents[surest[second]]) for first, second in pairs]
        return {
            how: torch.cat([module(interpolate(a, b, alpha, how)) for a, b in ends]).cpu()
            for how in ways(module)
        }


def train(args: Args) -> dict[str, Any]:
    """Train one GAN, test it, draw; return the content of results.json."""
    import torch

    from rdfia.common import plots

    def preview(gan: "GANModule") -> "torch.Tensor":
        images: torch.Tensor = gan(gan.preview_latents)
        return images

    pairs = [(int(first), int(second)) for first, second in args.interpolate]

    def figures(gan: "GANModule") -> dict[str, "Figure"]:
        return {"interpolation": plots.image_grids(walks(gan, pairs, steps=10), columns=10)} if pairs else {}

    def films(gan: "GANModule") -> dict[str, list["np.ndarray"]]:
        if not pairs:
            return {}
        walked = walks(gan, pairs, steps=30).values()
        frames = zip(*(images.unflatten(0, (len(pairs), 30)).unbind(1) for images in walked), strict=True)
        return {"walk": [plots.sheet(torch.cat(shown), columns=len(pairs)) for shown in frames]}

    def scores(gan: "GANModule") -> dict[str, float]:
        return halfway_scores(gan, 50 if args.fast_dev_run else 1000) if pairs else {}

    return run(args, build, preview, figures, technique="gan", films=films, more_scores=scores)


def run(
    args: GANArgs,
    build: Callable[[Any], "GANModule"],
    preview: Callable[[Any], "torch.Tensor"],
    figures: Callable[[Any], dict[str, "Figure"]],
    *,
    technique: str,
    films: Callable[[Any], dict[str, list["np.ndarray"]]] = lambda module: {},
    more_scores: Callable[[Any], dict[str, float]] = lambda module: {},
    columns: int = 8,
) -> dict[str, Any]:
    """Train, test and draw a GAN of either kind; return the content of results.json.

    Args:
        args: The flags.
        build: Makes the module of the flags.
        preview: Makes the images (N, 1, 32, 32) that each epoch and the film show.
        figures: Makes more figures of the trained module, by name.
        technique: For results.json.
        films: Makes films of it, the frames of each by name.
        more_scores: Of the trained module.
        columns: Of the preview.
    """
    import lightning

    from rdfia.common import plots
    from rdfia.engine import callbacks, errors, runs, training, wandb_run
    from rdfia.generation.digit_judge import FIRST_JUDGED, score_images

    lightning.seed_everything(args.seed, workers=True, verbose=False)
    module = build(args)
    digits = read_digits(args)
    if module.groups is not None and module.groups.count > len(digits.train_data):
        raise ValueError(
            f"--groups {module.groups.count} of {len(digits.train_data)} digits; take fewer, or 0"
        )
    epoch = len(digits.train_dataloader())
    free = training.MAY_CHANGE if module.decay == "none" else training.MAY_CHANGE_BUT_LENGTH
    folder = training.open_run(args, module, data := digits.describe(), may_change=free)

    def grid(gan: Any) -> "Figure":
        return plots.image_grids({"generated digits": preview(gan)}, columns=columns)

    trainer = training.make_trainer(
        args,
        folder,
        monitor="val/judge_fid",
        mode="min",
        callbacks=[
            callbacks.EpochFigure(folder, "samples", grid),
            callbacks.Film(folder, lambda gan: plots.sheet(preview(gan), columns)),
        ],
        losses=("train/discriminator_loss",),  # the generator has none in batches in which it does not step
        two_optimizers=True,
    )
    diverged = None
    try:
        seconds = training.fit(args, trainer, module, digits)
    except errors.Diverged as error:  # scored all the same: that too is a result
        diverged, seconds = error, training.seconds_trained(trainer)
    held_out = args.score_on in ("held-out", "both")
    loader = digits.val_dataloader() if held_out else digits.test_dataloader()
    tested = trainer.test(module, loader, verbose=False)[0]
    on_test = (
        trainer.test(module, digits.test_dataloader(), verbose=False)[0] if args.score_on == "both" else {}
    )
    if not trainer.is_global_zero:
        return {}

    scores = {name.removeprefix("test/"): value for name, value in tested.items()}
    against = digits.val_data if held_out else digits.test_data
    # The floor is of as many digits as were generated: with fewer, all distances are larger.
    count = min(len(against), len(digits.train_data), 64 if args.fast_dev_run else 10**9)
    real, others = against[range(count)][0], digits.train_data[range(count)][0]
    scores |= {f"floor_{name}": value for name, value in score_images(others, real).items()}
    scores |= {name.replace("/", "_"): value for name, value in on_test.items()}
    history = runs.read_metrics(folder)
    scores |= {"seconds": seconds} | ({} if args.fast_dev_run else loss_numbers(history, epoch))
    scores |= more_scores(module)
    samples = module.sample(64)
    curves = plots.gan_curves(history, samples, smooth=epoch // 10)
    runs.save_figure(folder, "curves_and_samples", curves, trainer)
    fid = f"judge-FID {scores['judge_fid']:.2f} (real digits {scores['floor_judge_fid']:.2f})"
    kind = "held-out training digits" if held_out else "test digits"
    grids = plots.image_grids({f"real {kind}": real[:64], "generated": samples}, title=fid)
    runs.save_figure(folder, "real_and_generated", grids, trainer)
    for name, figure in figures(module).items():
        runs.save_figure(folder, name, figure, trainer)
    for name, frames in films(module).items():
        runs.save_film(folder, name, frames, trainer)
    judged_at_all = digits.describe()["name"] == "MNIST"
    judged = max(0, count - FIRST_JUDGED) if judged_at_all else 0
    # Held-out digits are the last of the training set, which trained the judge; the GAN has not seen them.
    known = " (all of which trained the judge)" if held_out and judged_at_all else ""
    note = (
        f"judge-FID uses the features of rdfia's digit judge, against {kind}{known}; the floor is what the "
        f"first {count:,} training digits get, of which {judged:,} trained the judge"
    )
    results = runs.write_results(
        folder,
        trainer,
        technique=technique,
        seeds=[args.seed],
        data=data,
        metrics={name: [value] for name, value in scores.items()},
        selection="last epoch, samples of the averaged generator",
        wall_seconds=seconds,
        notes=[note, *([str(diverged)] if diverged else [])],
    )
    wandb_run.finish_last()
    if diverged:
        raise diverged
    print(f"{scores['n_generated']:.0f} generated digits against {scores['n_real']:.0f} real {kind}")
    for name in ("judge_fid", "precision", "recall", "confident_share", "smallest_class_share"):
        print(f"{name:22}{scores[name]:8.3f}    real training digits {scores['floor_' + name]:8.3f}")
    print(
        "a dry run, nothing kept"
        if args.fast_dev_run
        else f"results.json, figures/, checkpoints/ in {folder}"
    )
    return results


def main(args: Args) -> dict[str, Any]:
    """Train what is asked for; return the content of results.json."""
    # Imported in functions, so that --help does not wait for torch.
    from rdfia.engine import devices

    args = devices.settle(args)
    if not (args.seeds or args.ablation):
        if args.part is not None:
            raise ValueError("--part is one of a table; add --seeds or --ablation")
        return train(args)
    everything = {row: change for group in ABLATION.values() for row, change in group.items()}
    tables = ABLATION | {"all": everything, "ladder": LADDER, "tried": TRIED}
    rows: dict[str, dict[str, Any]] = {args.preset: {}}
    for group in args.ablation:
        rows |= tables[group]
    if args.ablation and args.score_on == "auto":
        args = dataclasses.replace(args, score_on="held-out")
    if "ladder" in args.ablation and args.score_on == "held-out":
        last = list(LADDER)[-1]  # what it leads to is tested
        rows[last] = rows[last] | {"score_on": "both"}
    return compare(args, build, rows, train, read_digits(args).describe())


if __name__ == "__main__":
    run_script(main, Args)

"""The experiments with GANs: train one of either kind, score what it draws, draw it."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules import open_dataset
from datamodules.in_memory import InMemoryDataModule
from rdfia.common import plots
from rdfia.engine import callbacks, devices, resume, runs, training, wandb_run
from rdfia.engine.args import keywords
from rdfia.engine.errors import Diverged
from rdfia.generation.cgan import cGANModule
from rdfia.generation.config import (
    ABLATION,
    CONDITIONAL_ROWS,
    LADDER,
    MODERN,
    RGB_LADDER,
    ConditionalGANArgs,
    GANArgs,
    SharedArgs,
)
from rdfia.generation.digit_style import style_scores
from rdfia.generation.experiment_floor import evenly, floor_of, note_on_scores, said_of_few
from rdfia.generation.experiment_looks import Looks, examine
from rdfia.generation.experiment_tables import compare
from rdfia.generation.feature_scores import make_scores
from rdfia.generation.gan import PRESETS, GANModule
from rdfia.generation.losses import heeds_groups
from rdfia.generation.plots import gan_curves, said
from rdfia.generation.walks import halfway_scores, walks

Scores = dict[str, float]


class Experiment:
    """One GAN without labels: build, train, test, draw.

    Args:
        args: The flags.
    """

    technique = "gan"

    def __init__(self, args: GANArgs) -> None:
        self.args: SharedArgs = args
        self.pairs = [(int(pair[0]), int(pair[1])) for pair in args.interpolate]

    def build(self, images: InMemoryDataModule | None = None) -> GANModule:
        """Return the module that the flags describe, for data."""
        flags = module_flags(self.args, images)
        heeded = heeds_groups(flags.get("loss", "non-saturating"), flags.get("gp_weight", 0.0))
        if images is not None and flags.get("groups") is None and heeded:
            # Ten images of each group, as far as there are so many.
            flags["groups"] = min(50, flags.get("latent_dim", 100), len(images.train_data) // 10)
        return GANModule(**flags)

    def preview(self, gan: Any) -> Tensor:
        """Return the images (N, 1, 32, 32) that each epoch and the film show."""
        images: Tensor = gan(gan.preview_latents)
        return images

    def figures(self, gan: Any) -> dict[str, Figure]:
        """Return more figures of the trained module, by name."""
        if not self.pairs:
            return {}
        return {"interpolation": plots.image_grids(walks(gan, self.pairs, steps=10), columns=10)}

    def films(self, gan: Any) -> dict[str, list[np.ndarray]]:
        """Return films of the trained module, the frames of each by name."""
        if not self.pairs:
            return {}
        walked = walks(gan, self.pairs, steps=30).values()
        parts = (images.reshape(len(self.pairs), 30, *images.shape[1:]).unbind(1) for images in walked)
        frames = zip(*parts, strict=True)
        return {"walk": [plots.sheet(torch.cat(shown), columns=len(self.pairs)) for shown in frames]}

    def more_scores(self, gan: Any) -> Scores:
        """Return scores that only this kind of GAN has."""
        return halfway_scores(gan, 50 if self.args.fast_dev_run else 1000) if self.pairs else {}

    def train(self) -> dict[str, Any]:
        """Train, test and draw; return the content of results.json.

        Raises:
            Diverged: A loss was not finite; its results are written all the same.
        """
        args = self.args
        lightning.seed_everything(args.seed, workers=True, verbose=False)
        images = read_images(args)
        module = self.build(images)
        if module.groups is not None and module.groups.count > len(images.train_data):
            raise ValueError(
                f"--groups {module.groups.count} of {len(images.train_data)} images; take fewer, or 0"
            )
        held_out = args.holds_out
        against = images.val_data if held_out else images.test_data
        few = said_of_few(len(against), len(images.val_data), module.scores.fid)
        free = resume.MAY_CHANGE if module.lr_schedule == "none" else resume.MAY_CHANGE_BUT_LENGTH
        data = images.describe()
        # A closer look changes nothing of what was trained.
        folder = training.open_run(args, module, data, may_change=free | {"examine"})
        trainer = self._trainer(folder, module.scores.fid)
        diverged = None
        try:
            seconds = training.fit(args, trainer, module, images)
        except Diverged as error:  # scored all the same: that too is a result
            diverged, seconds = error, training.seconds_trained(trainer)
        loader = images.val_dataloader() if held_out else images.test_dataloader()
        tested = dict(trainer.test(module, loader, verbose=False)[0])
        if args.score_on == "both":
            on_test = trainer.test(module, images.test_dataloader(), verbose=False)[0]
            on_test = {name.replace("/", "_"): value for name, value in on_test.items()}
        else:
            on_test = {}
        if not trainer.is_global_zero:
            return {}
        device = training.back_on_device(trainer, module)  # for all that is drawn and scored below
        what = "digits" if args.digits else "images"
        kind = f"held-out training {what}" if held_out else f"test {what}"
        # The floor is of as many images as were generated: with fewer, all distances are larger.
        count = min(len(against), len(images.train_data), 64 if args.fast_dev_run else 10**9)
        first = args.takes_first
        shown = against[evenly(len(against), min(count, 64), first=first)][0]
        scores = {name.removeprefix("test/"): value for name, value in tested.items()}
        kind_of_scores = partial(make_scores, args.judged_by, args.data_dir)
        floor = floor_of(images.train_data, against, count, kind_of_scores, device, first=first)
        scores |= {f"floor_{name}": value for name, value in floor.items()}
        scores |= on_test | {"seconds": seconds}
        epoch, history = len(images.train_dataloader()), runs.read_metrics(folder)
        scores |= {} if args.fast_dev_run else loss_numbers(history, epoch)
        scores |= self.more_scores(module)
        looks = Looks()
        if args.examine and diverged is None:
            cache = args.image_cache.expanduser().parent / "classifiers"
            looks = examine(module, images, against, cache, dry=args.fast_dev_run)
            scores |= looks.scores
        self._draw(module, history, epoch, shown, kind, scores, folder, trainer)
        for name, figure in looks.figures.items():
            runs.save_figure(folder, name, figure, trainer)
        note = note_on_scores(kind, count, data, held_out=held_out, first=first)
        if not args.digits:
            note = (
                f"scored in the features of {args.judged_by}, against {kind}, as the digit judge knows grey "
                f"digits only; the floor is what {count:,} training images get against as many of these, "
                "spread evenly"
            )
        if not held_out:
            note += "; the distances during training are to images that are trained on"
        results = runs.write_results(
            folder,
            trainer,
            technique=self.technique,
            seeds=[args.seed],
            data=data,
            metrics={name: [value] for name, value in scores.items()},
            selection=f"last epoch{', samples of the averaged generator' if module.ema_decay else ''}",
            wall_seconds=seconds,
            status="diverged" if diverged else "finished",
            notes=[
                note,
                *([str(diverged)] if diverged else []),
                *few,
                *(f"{name}: {about}" for name, about in looks.notes.items()),
            ],
        )
        wandb_run.finish_last()
        if diverged:
            raise diverged
        print(f"{scores['n_generated']:.0f} generated {what} against {scores['n_real']:.0f} real {kind}")
        of_floor = ("kid", "precision", "recall", "confident_share", "smallest_class_share")
        for name in (module.scores.fid, *of_floor):
            if name in scores:
                print(f"{name:22} {scores[name]:8.3f}    real training {what} {scores['floor_' + name]:8.3f}")
        for name, about in looks.notes.items():
            print(f"{name} {runs.spread(results['metrics'][name])}: {about}")
        written = f"results.json, figures/, checkpoints/ in {folder}"
        print("a dry run, nothing kept" if args.fast_dev_run else written)
        return results

    def _trainer(self, folder: Path, fid: str) -> lightning.Trainer:
        def grid(gan: Any) -> Figure:
            return plots.image_grids({"generated images": self.preview(gan)})

        return training.make_trainer(
            self.args,
            folder,
            monitor=f"val/{fid}",
            mode="min",
            callbacks=[
                callbacks.EpochFigure(folder, "samples", grid),
                callbacks.Film(folder, lambda gan: plots.sheet(self.preview(gan), 8)),
            ],
            losses=("train/discriminator_loss",),  # the generator has none in batches without a step of it
            two_optimizers=True,
        )

    def _draw(
        self,
        module: GANModule,
        history: Mapping[str, plots.Line],
        epoch: int,
        real: Tensor,
        kind: str,
        scores: Scores,
        folder: Path,
        trainer: lightning.Trainer,
    ) -> None:
        samples = module.sample(64)
        name = module.scores.fid
        fid = f"{said(name)} {scores[name]:.2f} (real images {scores['floor_' + name]:.2f})"
        figures = {
            "curves_and_samples": gan_curves(
                history, samples, smooth=epoch // 10, held_out=self.args.holds_out
            ),
            "real_and_generated": plots.image_grids({f"real {kind}": real, "generated": samples}, title=fid),
            **self.figures(module),
        }
        for name, figure in figures.items():
            runs.save_figure(folder, name, figure, trainer)
        for name, frames in self.films(module).items():
            runs.save_film(folder, name, frames, trainer)


class ConditionalExperiment(Experiment):
    """One GAN conditioned on the class.

    Args:
        args: The flags.
    """

    technique = "cgan"

    def __init__(self, args: ConditionalGANArgs) -> None:
        self.args, self.conditional = args, args

    def build(self, images: InMemoryDataModule | None = None) -> cGANModule:
        """Return the module that the flags describe, for data."""
        of_data: dict[str, Any] = {}
        if images is not None:
            of_data = {"classes": len(images.classes), "class_names": images.classes}
        args = self.conditional
        conditioning = args.conditioning or ("one-hot" if args.preset == "practical" else "projection")
        return cGANModule(
            conditioning=conditioning,
            label_in_discriminator=args.label_in_discriminator,
            **module_flags(args, images),
            **of_data,
        )

    def preview(self, gan: Any) -> Tensor:
        """Return each class with the same latents, a row each."""
        images: Tensor = gan.class_grid(gan.preview_latents).flatten(0, 1)
        return images

    def figures(self, gan: Any) -> dict[str, Figure]:
        """Return the grid of classes and styles."""
        grid = gan.class_grid(gan.draw(16, 7)).flatten(0, 1)
        title = "each row a class, each column one latent"
        return {"styles": plots.image_grids({title: grid}, columns=16)}

    def films(self, gan: Any) -> dict[str, list[np.ndarray]]:
        """Return none."""
        return {}

    def more_scores(self, gan: Any) -> Scores:
        """Return how far one latent is one style, of digits, which have slant and thickness."""
        if not self.args.digits:
            return {}
        return style_scores(gan, 50 if self.args.fast_dev_run else 1000)


def run(args: GANArgs) -> dict[str, Any]:
    """Train a GAN, or a table of GANs; return the content of results.json."""
    args = devices.settle(args)
    if not (args.seeds or args.ablation):
        if args.part is not None:
            raise ValueError("--part is one of a table; add --seeds or --ablation")
        return Experiment(args).train()
    everything = {row: change for group in ABLATION.values() for row, change in group.items()}
    tables = ABLATION | {"all": everything, "modern": MODERN, "ladder": LADDER, "rgb": RGB_LADDER}
    rows: dict[str, dict[str, Any]] = {args.preset: {}}
    for group in args.ablation:
        rows |= tables[group]
    if args.ablation and args.score_on == "auto":
        args = dataclasses.replace(args, score_on="held-out")
    ladders = [tables[name] for name in ("ladder", "rgb") if name in args.ablation]
    if ladders and args.score_on == "held-out":
        last = list(ladders[-1])[-1]  # what it leads to is tested
        rows[last] = rows[last] | {"score_on": "both"}
    return compare(args, rows, Experiment, read_images(args))


def run_conditional(args: ConditionalGANArgs) -> dict[str, Any]:
    """Train a conditional GAN, or a table of them; return the content of results.json."""
    args = devices.settle(args)
    if not (args.seeds or args.compare):
        if args.part is not None:
            raise ValueError("--part is one of a table; add --seeds or --compare")
        return ConditionalExperiment(args).train()
    if args.compare and args.score_on == "auto":
        args = dataclasses.replace(args, score_on="held-out")
    rows: dict[str, dict[str, Any]] = {args.preset: {}} | {row: CONDITIONAL_ROWS[row] for row in args.compare}
    return compare(args, rows, ConditionalExperiment, read_images(args))


def module_flags(args: SharedArgs, images: InMemoryDataModule | None) -> dict[str, Any]:
    """Return the keywords of `GANModule` that follow from the flags, and from the data."""
    channels = {"channels": images.train_data.channels} if images is not None else {}
    return PRESETS[args.preset] | keywords(GANModule, args) | channels | {"scores": args.judged_by}


def read_images(args: SharedArgs) -> InMemoryDataModule:
    """Return the data at the size of the networks; validation images are trained on, unless they score."""
    assert args.batch_size is not None
    options = args.reading()
    if "/" in args.dataset and isinstance(args, GANArgs):
        options["labels"] = "optional"
    channels = args.channels or (1 if args.dataset == "scene15" else None)  # which are grey photographs
    options |= {"channels": channels} if channels else {}
    images = open_dataset(
        args.dataset,
        args.data_dir,
        batch_size=args.batch_size,
        image_size=args.image_size,
        seed=args.seed,
        train_on_val=not args.holds_out,
        **options,
    )
    images.prepare_data()
    images.setup()
    found = images.train_data.channels
    if args.channels not in (None, found):
        raise ValueError(f"--dataset {args.dataset} has {found} channels; leave --channels out")
    images.train_dataloader()  # says now if they are fewer than a batch
    return images


def loss_numbers(history: Mapping[str, plots.Line], epoch: int) -> Scores:
    """Return what the curves of a training say as numbers.

    Both losses, means over the last ``epoch`` batches; loss_swing, the standard deviation of the generator's
    loss over those; discriminator_wins, the share of all batches in which the discriminator is wrong about
    none of the images.
    """
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

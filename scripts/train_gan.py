"""Train a DCGAN on MNIST, score its digits with the digit judge, draw the figures.

Example: python scripts/train_gan.py --data-dir sample --max-epochs 40
"""

from dataclasses import dataclass
from typing import Any

from rdfia.command_line import TrainerArgs, run_script


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Train a DCGAN on MNIST and score its digits with the digit judge."""

    name: str = "gan"
    """Name of the run folder; the same name goes on."""
    latent_dim: int = 100
    """Numbers in a latent vector."""
    generator_features: int = 32
    """Width of the generator's last layer."""
    discriminator_features: int = 32
    """Width of the discriminator's first layer."""
    generator_lr: float = 2e-4
    """Adam's learning rate for the generator."""
    discriminator_lr: float = 2e-4
    """Adam's learning rate for the discriminator."""


def main(args: Args) -> dict[str, Any]:
    """Train, test, draw; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import lightning

    from datamodules.mnist import MNISTDataModule
    from rdfia import plots, runs, training, wandb_run
    from rdfia.digit_judge import score_images
    from rdfia.gan import GANModule

    size = {"batch_size": args.batch_size, "image_size": 32}
    digits = MNISTDataModule(args.data_dir, **size, seed=args.seed, train_on_val=True)
    digits.setup()
    epoch = len(digits.train_dataloader())
    lightning.seed_everything(args.seed, workers=True, verbose=False)
    flags = ("latent_dim", "generator_features", "discriminator_features")
    flags += ("generator_lr", "discriminator_lr", "seed")
    module = GANModule(**{name: getattr(args, name) for name in flags})
    folder = training.open_run(args, module, data := digits.describe())

    def preview(gan: GANModule) -> plots.Figure:
        return plots.image_grids({"generated digits": gan(gan.preview_latents)})

    trainer = training.make_trainer(
        args,
        folder,
        monitor="val/judge_fid",
        mode="min",
        callbacks=[training.EpochFigure(folder, "samples", preview)],
        two_optimizers=True,
    )
    seconds = training.fit(args, trainer, module, digits)
    tested = trainer.test(module, digits, verbose=False)[0]
    if not trainer.is_global_zero:
        return {}

    scores = {name.removeprefix("test/"): value for name, value in tested.items()}
    count = min(len(digits.test_data), len(digits.train_data), 64 if args.fast_dev_run else 10**9)
    real, others = digits.test_data[range(count)][0], digits.train_data[range(count)][0]
    scores |= {f"floor_{name}": value for name, value in score_images(others, real).items()}
    note = "judge-FID uses the features of rdfia's digit judge; the floor is what real training digits get"
    results = runs.write_results(
        folder,
        trainer,
        technique="gan",
        seeds=[args.seed],
        data=data,
        metrics={name: [value] for name, value in scores.items()},
        selection="last epoch, samples of the averaged generator",
        wall_seconds=seconds,
        notes=[note],
    )
    runs.save_figure(folder, "loss_curves", plots.gan_curves(runs.read_metrics(folder), epoch // 10), trainer)
    fid = f"judge-FID {scores['judge_fid']:.2f} (real digits {scores['floor_judge_fid']:.2f})"
    grids = plots.image_grids({"real test digits": real[:64], "generated": module.sample(64)}, title=fid)
    runs.save_figure(folder, "real_and_generated", grids, trainer)
    wandb_run.finish_last()
    print(f"{scores['n_generated']:.0f} generated digits against {scores['n_real']:.0f} real test digits")
    for name in ("judge_fid", "precision", "recall", "confident_share", "smallest_class_share"):
        print(f"{name:22}{scores[name]:8.3f}    real training digits {scores['floor_' + name]:8.3f}")
    print(
        "a dry run, nothing kept"
        if args.fast_dev_run
        else f"results.json, figures/, checkpoints/ in {folder}"
    )
    return results


if __name__ == "__main__":
    run_script(main, Args)

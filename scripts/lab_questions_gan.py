"""The questions of the practical about GANs, and where their answers lie, as in `lab_questions`."""

from collections.abc import Iterable

from rdfia.engine.questions import Question
from rdfia.generation.config import ABLATION, LADDER

DIGITS = {
    "judge-FID": "judge_fid",
    "precision": "precision",
    "recall": "recall",
    "confident": "confident_share",
    "smallest class": "smallest_class_share",
}
GAN = DIGITS | {
    "distance of histograms": "histogram_distance",
    "loss of the discriminator": "final_discriminator_loss",
    "loss of the generator": "final_generator_loss",
    "swing of the generator's loss": "loss_swing",
    "seconds": "seconds",
}
EQUATIONS = ("practical", "only D learns", "only G learns")


def of_gan(group: str) -> dict[str, str]:
    """Return the rows of a group of the practicals' variations, after their own recipe."""
    return {"the practicals' recipe": "gan_ablation:practical"} | {
        row: f"gan_ablation:{row}" for row in ABLATION[group]
    }


def trainings(rows: Iterable[str]) -> dict[str, str]:
    """Return the figures of rows of the practicals' variations: losses, scores, and what is generated."""
    return {row: f"gan_ablation:{row}/curves_and_samples" for row in rows}


GENERATION = [
    Question(
        "What do the practicals' recipe, ours, and the conditional DCGAN give?",
        rows={"practicals": "gan_practical", "ours": "gan", "conditional": "cgan"},
        columns=DIGITS | {"2s": "class_2", "5s": "class_5", "seconds": "seconds"},
        figures={
            "the practicals' recipe": "gan_practical/curves_and_samples",
            "ours": "gan/real_and_generated",
            "ours, as it learns": "gan/film",
            "conditional, as it learns": "cgan/film",
        },
        published={"practicals": "2 and 5 almost absent"},
        less=True,
    ),
    Question(
        "What has each step from their recipe to ours given?",
        rows={"the practicals' recipe": "gan_ladder:practical"}
        | {row: f"gan_ladder:{row}" for row in LADDER},
        columns=GAN,
        figures={"samples of each row": "gan_ladder/samples"},
        less=True,
    ),
    Question(
        "What if only the generator or only the discriminator learns?",
        rows={row: f"gan_ablation:{row}" for row in EQUATIONS},
        columns=GAN,
        figures=trainings(EQUATIONS),
        less=True,
    ),
    *(
        Question(question, of_gan(group), GAN, trainings(ABLATION[group]), published, less=True)
        for group, question, published in (
            (
                "ngf",
                "What does the width of the generator do?",
                {"ngf 4": "unstable", "ngf 256": "realistic, less stable"},
            ),
            (
                "ndf",
                "What does the width of the discriminator do?",
                {"ndf 4": "bad digits", "ndf 256": "makes no mistake for 1,500 iterations"},
            ),
            (
                "nz",
                "What do the length and the distribution of the latents do?",
                {"nz 10": "fine", "nz 1000": "less stable, not better"},
            ),
            ("init", "What does the initialisation do?", {"pytorch initialization": "unstable, worse"}),
            (
                "lr",
                "What do the learning rates do?",
                dict.fromkeys(("D rate 0.02", "G rate 0.05", "rates 0.02 and 0.05"), "unstable")
                | {"G rate 0.001": "too fast, worse", "rates 0.001 and 0.001": "acceptable"},
            ),
            (
                "loss",
                "What does the loss do? The equation of the paper is minimax",
                {"minimax loss": "similar, or worse"},
            ),
            ("epochs", "What does training for longer do?", {"30 epochs": "losses part, fewer classes"}),
        )
    ),
    Question(
        "What lies between two latents?",
        rows={
            "latents as drawn": "gan:confident_share",
            "halfway along the line": "gan:halfway_confident_share_linear",
            "halfway along the arc": "gan:halfway_confident_share_slerp",
        },
        columns={"images that the judge is confident of": ""},
        figures={
            "walks between digits, along the line and along the arc": "gan/interpolation",
            "the same walks, above along the line, below along the arc": "gan/walk",
        },
    ),
    Question(
        "Is the digit asked for drawn, and what if the discriminator is not told it?",
        rows={"told": "cgan", "not told": "cgan_no_label:no-label-in-discriminator"},
        columns={
            "asked digit is read": "conditional_accuracy",
            "in the worst class": "worst_accuracy",
            "diversity in a class": "diversity",
        },
        figures={
            "told, each row the digit asked for": "cgan/styles",
            "not told": "cgan_no_label:no-label-in-discriminator/styles",
        },
        published={"not told": "asked, not measured"},
    ),
    Question(
        "Is one latent one style, whatever digit is asked for?",
        rows={"slant": "cgan:slant_correlation", "thickness": "cgan:thickness_correlation"}
        | {
            f"{name}, shuffled latents": f"cgan:{name}_correlation_of_shuffled_pairs"
            for name in ("slant", "thickness")
        },
        columns={"correlation over the ten digits of one latent": ""},
        figures={"each row a digit, each column one latent": "cgan/styles"},
        published={"slant": "the same style over the digits"},
    ),
]

"""The digit judge: a frozen classifier of digits, and the scores that generated digits get from it.

Scores of generated images depend on the network that looks at them, and Inception has never seen a digit.
So digits are scored by a small CNN trained on digits (`scripts/train_judge.py` makes its weights). Because
the network is ours, the Fréchet distance in its feature space is called *judge-FID*: it compares with other
judge-FIDs of the same sample counts, never with an FID.

- judge-FID and the other distances of `rdfia.generation.distances`, in judge features.
- class shares, their distance from uniform, and the share of confident samples: from judge probabilities.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.utilities import dim_zero_cat

from rdfia.common.checks import KeepsPrecision, check_images
from rdfia.common.exact import exact
from rdfia.generation.sampled_features import SampledFeatures

# The judge was trained on MNIST's training digits from this one on; the embedded sample is of earlier ones.
FIRST_JUDGED = 5848
SURE = 0.9  # a probability above which the judge is confident
WEIGHTS = Path(__file__).with_name("digit_judge.safetensors")


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class DigitJudge(KeepsPrecision):
    """A small CNN for grey 32x32 digits in [0, 1].

    ``features`` gives the 64 numbers before the last layer, in which distances are taken; ``forward``
    gives the 10 logits. Always float32, also under autocast: a score must not depend on the precision
    that the generator trains in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, 24),
            *_block(24, 24),
            nn.MaxPool2d(2),
            *_block(24, 48),
            *_block(48, 48),
            nn.MaxPool2d(2),
            *_block(48, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    @exact()
    def features(self, images: Tensor) -> Tensor:
        """Map digits (B, 1, 28, 28) or (B, 1, 32, 32) in [0, 1] to features (B, 64)."""
        with torch.autocast(images.device.type, enabled=False):
            padding = (32 - images.shape[-1]) // 2
            features: Tensor = self.trunk(functional.pad(images.float(), [padding] * 4) - 0.5)
        return features

    @exact()
    def classify(self, features: Tensor) -> Tensor:
        """Map features (B, 64) to logits (B, 10)."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map digits (B, 1, 28, 28) or (B, 1, 32, 32) in [0, 1] to logits (B, 10)."""
        return self.classify(self.features(images))


def load_judge() -> DigitJudge:
    """Return the judge with the shipped weights, frozen and in eval mode."""
    judge = DigitJudge()
    judge.load_state_dict(load_file(WEIGHTS))
    # Twice as fast on a CPU, where half of a GAN's validation is the judge's.
    return judge.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def confident_share(logits: Tensor) -> Tensor:
    """Return the share of logits (N, 10) whose largest probability is above 0.9."""
    return (logits.softmax(1).amax(1) > SURE).double().mean()


def diversity(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean distance between two images of one class, (10,); nan for fewer than 2 images.

    Args:
        features: (N, D).
        labels: (N,) from 0 to 9.
    """
    means = []
    for digit in range(10):
        own = features[labels == digit].double()
        # Each image is at distance 0 from itself.
        means.append(torch.cdist(own, own).sum() / (len(own) * (len(own) - 1)))
    return torch.stack(means)


class DigitScores(SampledFeatures):
    """All scores of generated digits against real ones, exact under DDP.

    Update with real and with generated images on every process, compute on every process (never under
    ``rank_zero_only``: the gathering would wait for ever).

    Read them together: the judge has seen nothing but digits, so it can be confident of a blank image, and
    noise can lie inside a ball of the real manifold. Judge-FID and recall tell those.

    Where ``labels`` say which digits the generator was asked for, ``compute`` also returns
    conditional_accuracy (the judge reads what was asked for), accuracy_0 … accuracy_9, worst_accuracy, and
    diversity within classes: `diversity` of the generated digits that are what was asked for, over that of
    real ones, mean over classes; below 1, a class has collapsed to a part of what it is.

    ``compute`` returns `SampledFeatures.distances` with judge_fid, `confident_share`, histogram_distance
    (total variation distance of the class shares from uniform, 0 to 0.9), smallest_class_share, class_0 …
    class_9.
    """

    fid = "judge_fid"
    real_labels: list[Tensor]
    asked: list[Tensor]
    confident: Tensor
    read: Tensor

    def __init__(self, *, sync_on_compute: bool = True) -> None:
        super().__init__(dimensions=64, sync_on_compute=sync_on_compute)
        self.judge = load_judge()
        self.add_state("real_labels", [], dist_reduce_fx="cat")
        self.add_state("asked", [], dist_reduce_fx="cat")
        self.add_state("confident", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        # How many were asked to be a digit, the last row to be none, and read as one.
        self.add_state("read", torch.zeros(11, 10, dtype=torch.float64), dist_reduce_fx="sum")

    def train(self, mode: bool = True) -> "DigitScores":
        """Keep the judge in eval mode: its BatchNorm statistics must not move with what it judges."""
        super().train(mode)
        self.judge.eval()
        return self

    def update(self, images: Tensor, *, real: bool, labels: Tensor | None = None) -> None:
        """Add digits.

        Args:
            images: (B, 1, 28, 28) or (B, 1, 32, 32) in [0, 1].
            real: Or generated.
            labels: (B,), what real digits are and what generated ones were asked to be.

        Raises:
            ValueError: They are not such digits, or labels are not 0 to 9, or -1 for none. Images of a
                generator that diverged may be nan, as its scores are then.
        """
        if images.ndim != 4 or images.shape[1:] not in ((1, 28, 28), (1, 32, 32)):
            raise ValueError(f"digits are (B, 1, 28, 28) or (B, 1, 32, 32), got {tuple(images.shape)}")
        check_images(images.nan_to_num(0.0) if images.is_floating_point() else images, "digits")
        if labels is not None and not ((labels >= -1) & (labels < 10)).all():
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"labels of digits are 0 to 9, or -1, got {found}; take scores='squeezenet'")
        features = self.judge.features(images)
        chosen = self.add(features, real=real)
        # One for each image: what is gathered from several processes cannot be absent.
        known = torch.full((len(images),), -1, device=images.device) if labels is None else labels
        self.keep("real_labels" if real else "asked", known, chosen)
        if not real:
            logits = self.judge.classify(features)
            self.confident = self.confident + (logits.softmax(1).amax(1) > SURE).sum()
            rows = functional.one_hot(known % 11, 11).double()  # -1 is the last
            self.read = self.read + rows.T @ functional.one_hot(logits.argmax(1), 10).double()

    @exact()
    def compute(self) -> dict[str, Tensor]:
        """Return the scores as float scalars."""
        real, generated = self.kept("real"), self.kept("generated")
        shares = self.read.sum(0) / self.generated_count
        scores = self.distances() | {
            "confident_share": self.confident / self.generated_count,
            "histogram_distance": (shares - 0.1).abs().sum() / 2,
            "smallest_class_share": shares.min(),
            **{f"class_{digit}": share for digit, share in enumerate(shares)},
        }
        asked = dim_zero_cat(self.asked)
        if self.read[:10].any():
            right = self.judge.classify(generated).argmax(1) == asked
            accuracies = self.read[:10].diagonal() / self.read[:10].sum(1)
            scores |= {"conditional_accuracy": self.read[:10].diagonal().sum() / self.read[:10].sum()}
            scores |= {f"accuracy_{digit}": accuracy for digit, accuracy in enumerate(accuracies)}
            # A class that a small sample holds none of does not count.
            scores["worst_accuracy"] = accuracies.nan_to_num(torch.inf).min()
            of_real = diversity(real, dim_zero_cat(self.real_labels))
            spread = diversity(generated[right], asked[right]) / of_real
            scores["diversity"] = spread.nanmean()
        return {name: value.float().to(generated.device) for name, value in scores.items()}


def score_images(
    images: Tensor,
    real: Tensor,
    *,
    asked: Tensor | None = None,
    real_labels: Tensor | None = None,
    kind: Callable[..., SampledFeatures] = DigitScores,
) -> dict[str, float]:
    """Return the `DigitScores` of digits, by themselves: one process, which gathers nothing from others.

    Args:
        images: (N, C, H, W) in [0, 1]; digits are grey and of 28 or 32 pixels.
        real: (M, C, H, W) in [0, 1].
        asked: (N,), which digits the images were asked to be; with ``real_labels``.
        real_labels: (M,).
        kind: Or other scores, such as `rdfia.generation.feature_scores.FeatureScores`.
    """
    scores = kind(sync_on_compute=False).to(images.device)
    for digits, labels, are_real in ((images, asked, False), (real, real_labels, True)):
        for numbers in torch.split(torch.arange(len(digits)), 500):
            known = None if labels is None else labels[numbers]
            scores.update(digits[numbers], real=are_real, labels=known)
    return {name: float(value) for name, value in scores.compute().items()}

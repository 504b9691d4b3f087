"""Scores of generated images of any kind, in the features of a network that knows photographs.

The digit judge has seen nothing but digits. Elsewhere images are compared by what the embedded SqueezeNet 1.1
makes of them: the Fréchet distance is called *squeezenet-FID*, and compares with others of the same sample
counts, never with an FID, which is Inception's.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rdfia.common.backbones import load_backbone
from rdfia.common.checks import KeepsPrecision, check_images
from rdfia.common.exact import exact
from rdfia.generation.digit_judge import frechet_distance, precision_recall

SIDE = 64  # images are enlarged to it: at 32 pixels the last layers have maps of one place


class _Features(KeepsPrecision):
    """SqueezeNet 1.1 up to its last maps, and their means."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = load_backbone("squeezenet1_1").to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1 or 3, H, W) in [0, 1] to features (B, 512) float32."""
        with torch.autocast(images.device.type, enabled=False):
            colour = images.float().expand(-1, 3, -1, -1)
            large = functional.interpolate(colour, (SIDE, SIDE), mode="bilinear", antialias=True)
            maps = self.backbone.tap(large.contiguous(memory_format=torch.channels_last), ["fire9"])["fire9"]
            return maps.mean((2, 3))


class FeatureScores(Metric):
    """Scores of generated images against real ones, exact under DDP.

    ``compute`` returns squeezenet_fid, precision and recall (see
    `rdfia.generation.digit_judge.precision_recall`), n_real and n_generated. With fewer than 5 samples on a
    side, distances are nan.
    """

    full_state_update = False
    fid = "squeezenet_fid"
    """Name of the score that a training is watched by."""
    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, *, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.network = _Features()
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    def train(self, mode: bool = True) -> "FeatureScores":
        """Keep the network in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    @exact()
    def update(self, images: Tensor, *, real: bool, labels: Tensor | None = None) -> None:
        """Add images.

        Args:
            images: (B, 1 or 3, H, W) in [0, 1].
            real: Or generated.
            labels: Of them, which are not looked at.

        Raises:
            ValueError: They are no images in [0, 1]. Those of a generator that diverged may be nan, as its
                scores are then.
        """
        check_images(images.nan_to_num(0.0) if images.is_floating_point() else images)
        (self.real if real else self.generated).append(self.network(images))

    def compute(self) -> dict[str, Tensor]:
        """Return the scores as float scalars."""
        real, generated = dim_zero_cat(self.real), dim_zero_cat(self.generated)
        fid = precision = recall = torch.tensor(torch.nan)
        if min(len(real), len(generated)) >= 5:
            fid = frechet_distance(real, generated)
            precision, recall = precision_recall(real, generated)
        scores = {self.fid: fid, "precision": precision, "recall": recall}
        scores |= {"n_real": torch.tensor(len(real)), "n_generated": torch.tensor(len(generated))}
        return {name: value.float().to(generated.device) for name, value in scores.items()}

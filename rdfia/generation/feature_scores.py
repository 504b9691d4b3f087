"""Scores of generated images of any kind, in the features of a network that knows photographs.

The digit judge has seen nothing but digits. Elsewhere images are compared by what a pretrained network makes
of them. A Fréchet distance is named after the network, such as *squeezenet-FID*, and compares with others of
the same network and sample counts alone. Only in the features of the Inception-V3 of Heusel et al. 2017, with
their weights and their way to resize images, is it an FID.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.files import weights_root
from rdfia.common.backbones import load_backbone
from rdfia.common.checks import KeepsPrecision, check_images
from rdfia.common.exact import exact
from rdfia.generation.digit_judge import DigitScores
from rdfia.generation.sampled_features import SampledFeatures

SIDE = 64  # images are enlarged to it for SqueezeNet: at 32 pixels its last layers have maps of one place
DINO = "timm:vit_small_patch14_dinov2/norm"
# As torch-fidelity and torchmetrics name the file; the digits are the beginning of its sha256.
INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
INCEPTION_HASH = "6726825d"


class _Features(KeepsPrecision):
    """A network up to a layer, and the means of its maps, or what it makes of its class token.

    Args:
        network: Such as ``squeezenet1_1``, see `rdfia.common.backbones.load_backbone`.
        layer: Of it.
        side: Images are resized to it.
        data_dir: Where ``weights/`` lies.
    """

    def __init__(self, network: str, layer: str, side: int, data_dir: Path | str | None) -> None:
        super().__init__()
        backbone = load_backbone(network, data_dir=data_dir)
        resize: Any = getattr(backbone.network, "set_input_size", None)
        if resize is not None:  # a transformer, which takes images of one size alone
            resize(img_size=(side, side))
        self.token = getattr(backbone.network, "cls_token", None) is not None
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.layer, self.side = layer, side

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1 or 3, H, W) in [0, 1] to features (B, D) float32."""
        with torch.autocast(images.device.type, enabled=False):
            grey = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
            colour = grey.float().expand(-1, 3, -1, -1)
            large = functional.interpolate(colour, (self.side, self.side), mode="bilinear", antialias=True)
            found = self.backbone.tap(large.contiguous(memory_format=torch.channels_last), [self.layer])
            maps = found[self.layer]
            if maps.ndim == 3:
                return maps[:, 0] if self.token else maps.mean(1)
            if maps.ndim == 4 and maps.shape[-1] == getattr(self.backbone.network, "num_features", None):
                return maps.mean((1, 2))  # some transformers have channels last
            return maps.flatten(2).mean(2) if maps.ndim == 4 else maps


class _Inception(KeepsPrecision):
    """The Inception-V3 of FID, by torch-fidelity: its pooled features, images resized as TensorFlow did.

    It sees bytes: its features have no gradient.

    Args:
        path: Of its weights.

    Raises:
        ValueError: torch-fidelity is not installed, or the file holds something else.
    """

    differentiable = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError("Inception's features need torch-fidelity; pip install 'rdfia[fid]'") from error
        try:
            torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run what it holds
            self.network = FeatureExtractorInceptionV3("inception", ["2048"], str(path))
        except Exception as error:  # whatever a damaged file leads to
            raise ValueError(
                f"{path} holds no weights of FID's Inception-V3 ({type(error).__name__})"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1 or 3, H, W) in [0, 1] to features (B, 2048) float32."""
        with torch.autocast(images.device.type, enabled=False):
            grey_levels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
            features: Tensor = self.network(grey_levels.expand(-1, 3, -1, -1))[0]
            # Of a generator that diverged: bytes cannot say it.
            finite = images.flatten(1).isfinite().all(1, keepdim=True)
            return features.masked_fill(~finite, torch.nan)


class FeatureScores(SampledFeatures):
    """Scores of generated images against real ones, exact under DDP.

    ``compute`` returns `SampledFeatures.distances`.

    Args:
        network: Maps images (B, 1 or 3, H, W) in [0, 1] to features (B, D); by default the embedded
            SqueezeNet 1.1 up to the means of its last maps.
        fid: Name of the Fréchet distance.
        sync_on_compute: Gather what all processes have seen.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module | None = None,
        fid: str = "squeezenet_fid",
        *,
        sync_on_compute: bool = True,
    ) -> None:
        network = network or _Features("squeezenet1_1", "fire9", SIDE, None)
        with torch.no_grad():
            dimensions = network.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
        super().__init__(dimensions, sync_on_compute=sync_on_compute)
        # No part of this module: it can be larger than all that a checkpoint holds, and it is not trained.
        object.__setattr__(self, "network", network)
        self.fid = fid

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> "FeatureScores":
        self.network._apply(fn)
        super()._apply(fn, exclude_state)
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
        self.add(self.network(images), real=real)

    @exact()
    def compute(self) -> dict[str, Tensor]:
        """Return the scores as float scalars."""
        device = self.kept("generated").device
        return {name: value.float().to(device) for name, value in self.distances().items()}


def make_scores(
    name: str, data_dir: Path | str | None = None, *, sync_on_compute: bool = True
) -> DigitScores | FeatureScores:
    """Return the scores in the features of a network.

    Args:
        name: ``digits``: the digit judge, for grey digits. ``squeezenet``: the embedded SqueezeNet 1.1.
            ``inception``: Inception-V3 with the weights of FID, where they are on disk: then, and only then,
            the distance is called fid. ``dinov2``: a vision transformer (Oquab et al. 2023), where its
            weights are on disk. Else a network and its layer, such as ``resnet18/avgpool``.
        data_dir: Where ``weights/`` lies; by default ``$RDFIA_DATA``, else ``./data``.
        sync_on_compute: Gather what all processes have seen.

    Raises:
        ValueError: There is no such network, or its weights do not fit.
        FileNotFoundError: There are no weights on disk.
    """
    sync = sync_on_compute
    if name == "digits":
        return DigitScores(sync_on_compute=sync)
    if name in ("squeezenet", "features"):  # as checkpoints of earlier versions have it
        return FeatureScores(sync_on_compute=sync)
    root = weights_root(data_dir)
    if name == "inception":
        path = inception_weights(root)
        official = hashlib.sha256(path.read_bytes()).hexdigest().startswith(INCEPTION_HASH)
        return FeatureScores(_Inception(path), "fid" if official else "inception_fid", sync_on_compute=sync)
    network, _, layer = (DINO if name == "dinov2" else name).rpartition("/")
    if not network:
        known = "digits, squeezenet, inception, dinov2 or <network>/<layer>, such as resnet18/avgpool"
        raise ValueError(f"scores are those of {known}, got {name!r}")
    side = 299 if network == "inception_v3" else 224
    features = _Features(network, layer, side, root)
    said = "dinov2" if name == "dinov2" else name.replace("timm:", "").replace("/", "_").replace(".", "_")
    return FeatureScores(features, f"{said}_fid", sync_on_compute=sync)


def inception_weights(root: Path | None) -> Path:
    """Return where the weights of FID's Inception-V3 lie: ``<root>/weights``, or torch's cache of downloads.

    Raises:
        FileNotFoundError: Nowhere.
    """
    folders = ((root or Path("data")) / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        for name in INCEPTION:
            if (folder / name).is_file():
                return folder / name
    url = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION[1]}"
    raise FileNotFoundError(
        f"FID needs {folders[0] / INCEPTION[0]}; where there is a network: "
        f"curl -L --create-dirs -o {folders[0] / INCEPTION[0]} {url}"
    )

"""The networks of DCGAN, for grey or colour images of 32, 64 or 128 pixels.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016; widths and layers that people vary are keywords. Inside, images live in [-1, 1].
"""

import itertools
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from rdfia.generation.clusters import Groups

Initialization = Literal["dcgan", "pytorch", "orthogonal"]
Upsampling = Literal["transposed", "nearest"]
Blocks = Literal["plain", "residual"]
Normalization = Literal["batch", "spectral", "none"]
Size = Literal[32, 64, 128]
SIZES: tuple[int, ...] = get_args(Size)
WIDEST = 8  # hidden maps are at most so many times as wide as those at half the size of the images


def check_size(images: Tensor, size: int, channels: int) -> None:
    """Check that networks of a size and of so many channels can take images.

    Raises:
        ValueError: They are not (B, channels, size, size).
    """
    if images.shape[1:] != (channels, size, size):
        seen, wanted = tuple(images.shape), f"(B, {channels}, {size}, {size})"
        mend = f"a data module with image_size={size}, channels={channels}"
        raise ValueError(f"images are {wanted}, got {seen}; take {mend}, or a GAN of their size")


def widths(features: int, size: int) -> list[int]:
    """Return the widths of the hidden maps from half the images' size down to 4x4.

    They double with each halving, up to `WIDEST` times ``features``.

    Example:
        >>> widths(32, 32), widths(32, 128)
        ([32, 64, 128], [32, 64, 128, 256, 256])
    """
    return [features * min(2**number, WIDEST) for number in range(SIZES.index(size) + 3)]


def initialize(network: nn.Module, initialization: Initialization) -> None:
    """Draw a network's weights again, in place.

    Args:
        network: Of convolutions and BatchNorm.
        initialization: ``dcgan``: weights from N(0, 0.02), BatchNorm's scales from N(1, 0.02), as the paper
            has it. ``orthogonal`` (Saxe et al. 2014). ``pytorch`` leaves the weights as they are.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and initialization != "pytorch":
            if initialization == "orthogonal":
                with torch.no_grad():  # orthogonal_ itself takes no weights that are channels last
                    layer.weight.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape)))
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d) and initialization == "dcgan":
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def up(inputs: int, outputs: int, stride: int = 2, padding: int = 1) -> nn.Sequential:
    """Return a transposed 4x4 convolution, which doubles the size of maps, BatchNorm and ReLU."""
    # BatchNorm has a bias of its own.
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class RepeatAndConvolve(nn.Conv2d):
    """Repeat each place of maps (B, C, H, W) 2x2 times, then convolve 3x3: maps (B, D, 2H, 2W).

    Each result is made of 9 positions, of which at most 4 differ. So it is computed as a transposed 4x4
    convolution, with less than half of the products, whose kernel is the sum of the 3x3 one at 2x2 positions.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, 2H, 2W)."""
        if maps.device.type != "cpu":  # two kernels in place of a dozen
            return functional.conv2d(functional.interpolate(maps, scale_factor=2.0), self.weight, padding=1)
        kernel = self.weight.flip(2, 3).transpose(0, 1)
        positions = ((0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 0))
        spread = torch.stack([functional.pad(kernel, place) for place in positions]).sum(0)
        return functional.conv_transpose2d(maps, spread, stride=2, padding=1)


def enlarge(inputs: int, outputs: int) -> nn.Sequential:
    """Return `RepeatAndConvolve`, which doubles the size of maps, BatchNorm and ReLU."""
    return nn.Sequential(RepeatAndConvolve(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU())


class Halve(nn.Conv2d):
    """Convolve maps (B, C, H, W), H and W even, 4x4 at every second place: maps (B, D, H / 2, W / 2).

    On a CPU wide ones are one matrix product, whose gradients take less time than a convolution's, in
    bfloat16 about half.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / 2, W / 2)."""
        if self.in_channels < 256 or maps.device.type != "cpu":
            return super().forward(maps)
        count, channels, height, width = maps.shape
        height, width = height // 2, width // 2
        # Squares of 2x2 positions, of which each result is made of 2x2.
        padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        squares = padded.reshape(count, height + 1, 2, width + 1, 2, channels).transpose(2, 3).flatten(3)
        corners = [squares[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
        kernel = self.weight.permute(2, 3, 1, 0).reshape(2, 2, 2, 2, channels, -1).transpose(1, 2)
        return (torch.cat(corners, 3) @ kernel.flatten(0, 4)).permute(0, 3, 1, 2)


def down(inputs: int, outputs: int, normalized: bool = True) -> nn.Sequential:
    """Return `Halve`, BatchNorm if it is to be there, and LeakyReLU."""
    norm = [nn.BatchNorm2d(outputs)] if normalized else []
    return nn.Sequential(Halve(inputs, outputs), *norm, nn.LeakyReLU(0.2))


class ResidualUp(nn.Module):
    """Maps (B, C, H, W) to maps (B, D, 2H, 2W): two convolutions, beside nearest neighbours of the maps.

    BatchNorm and ReLU come before each convolution (He et al., "Identity Mappings in Deep Residual
    Networks", 2016), as in the generators of Gulrajani et al. 2017 and Miyato et al. 2018.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.enlarge = RepeatAndConvolve(inputs, outputs)
        self.after = nn.Sequential(
            nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, 2H, 2W)."""
        beside = functional.interpolate(self.skip(maps), scale_factor=2.0)  # before it is larger: cheaper
        changed: Tensor = self.after(self.enlarge(self.before(maps)))
        return changed + beside


class ResidualDown(nn.Module):
    """Maps (B, C, H, W) to maps (B, D, H / 2, W / 2): two convolutions, beside means of the maps.

    Args:
        inputs: C.
        outputs: D.
        normalized: With BatchNorm before each LeakyReLU.
    """

    def __init__(self, inputs: int, outputs: int, normalized: bool = True) -> None:
        super().__init__()

        def before(width: int) -> list[nn.Module]:
            return [*([nn.BatchNorm2d(width)] if normalized else []), nn.LeakyReLU(0.2)]

        first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.layers = nn.Sequential(*before(inputs), first, *before(inputs), Halve(inputs, outputs))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / 2, W / 2)."""
        beside: Tensor = self.skip(functional.avg_pool2d(maps, 2))
        changed: Tensor = self.layers(maps)
        return changed + beside


def grow(
    features: int,
    upsampling: Upsampling = "transposed",
    *,
    size: int = 32,
    channels: int = 1,
    blocks: Blocks = "plain",
) -> nn.Sequential:
    """Return the layers from maps of 4x4 to images (B, channels, size, size) in [-1, 1].

    Args:
        features: Width of the maps at half the size; the first are as wide as the last of `widths`.
        upsampling: ``transposed`` convolutions as in the paper, or ``nearest`` neighbours and convolutions:
            neighbouring pixels then come from the same weights, without a pattern of a chessboard (Odena et
            al., "Deconvolution and Checkerboard Artifacts", Distill 2016), and hidden maps reach full size.
        size: Of the images: 32, 64 or 128.
        channels: Of the images.
        blocks: ``plain``, or ``residual`` ones (`ResidualUp`), which are of nearest neighbours.
    """
    wide = widths(features, size)[::-1]  # at 4x4, 8x8, ...
    steps = list(itertools.pairwise(wide))
    if upsampling == "transposed" and blocks == "plain":
        hidden = [up(inputs, outputs) for inputs, outputs in steps]
        return nn.Sequential(*hidden, nn.ConvTranspose2d(features, channels, 4, 2, 1), nn.Tanh())
    last = max(features // 4, 4)
    kind = ResidualUp if blocks == "residual" else enlarge
    enlarged: list[nn.Module] = [kind(inputs, outputs) for inputs, outputs in [*steps, (features, last)]]
    if blocks == "residual":
        enlarged.append(nn.Sequential(nn.BatchNorm2d(last), nn.ReLU()))
    layers = nn.Sequential(*enlarged, nn.Conv2d(last, channels, 3, padding=1), nn.Tanh())
    return layers.to(memory_format=torch.channels_last)  # on a CPU twice as fast; transposed ones are not


def shrink(
    features: int, *, size: int = 32, blocks: Blocks = "plain", normalized: bool = True
) -> nn.Sequential:
    """Return the layers from maps (B, features, size / 2, size / 2) to the last of `widths` at 4x4."""
    wide = widths(features, size)
    kind = ResidualDown if blocks == "residual" else down
    return nn.Sequential(*(kind(inputs, outputs, normalized) for inputs, outputs in itertools.pairwise(wide)))


def bound(network: nn.Module) -> None:
    """Divide the weights of each layer by their largest singular value, whenever they are used.

    Spectral normalisation (Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
    ICLR 2018): no layer makes a change of its input larger than it is. One power iteration a use in training.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Embedding):
            nn.init.orthogonal_(layer.weight)  # zeros have no largest singular value
        if isinstance(layer, nn.Conv2d | nn.Embedding):
            parametrizations.spectral_norm(layer)


class Generator(nn.Module):
    """Latents (B, latent_dim), and groups that they choose themselves, to images (B, C, H, W) in [-1, 1].

    Args:
        latent_dim: Numbers in a latent vector.
        features: Width of the maps at half the images' size; the earlier ones are wider, see `widths`.
        upsampling: ``transposed`` or ``nearest``, see `grow`.
        groups: Whose choice stands beside the latents; None for latents alone.
        initialization: Of the weights, see `initialize`.
        size: H and W: 32, 64 or 128.
        channels: C.
        blocks: ``plain`` or ``residual``, see `grow`.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        features: int = 32,
        *,
        upsampling: Upsampling = "transposed",
        groups: Groups | None = None,
        initialization: Initialization = "dcgan",
        size: int = 32,
        channels: int = 1,
        blocks: Blocks = "plain",
    ) -> None:
        super().__init__()
        self.groups = groups
        first = widths(features, size)[-1]
        self.first = up(latent_dim + (groups.count if groups else 0), first, 1, 0)  # 4x4
        self.layers = grow(features, upsampling, size=size, channels=channels, blocks=blocks)
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""
        if self.groups is not None:
            latents = torch.cat([latents, self.groups(latents)], 1)
        images: Tensor = self.layers(self.first(latents[:, :, None, None]))
        return images


class Discriminator(nn.Module):
    """Images (B, C, H, W) in [-1, 1], and their classes (B,), to logits (B,); large means real.

    Args:
        features: Width of the first layer; the later ones are wider, see `widths`.
        classes: Their number. The last maps are multiplied with learned ones of the class, and the sum is
            added to the logit: projection (Miyato & Koyama, "cGANs with Projection Discriminator", ICLR
            2018). With 0 it heeds no class.
        initialization: Of the weights, see `initialize`.
        size: H and W: 32, 64 or 128.
        channels: C.
        blocks: ``plain``, or ``residual`` (`ResidualDown`).
        normalization: ``batch``: BatchNorm, as the paper has it; ``spectral``, see `bound`; or ``none``.
    """

    def __init__(
        self,
        features: int = 32,
        *,
        classes: int = 0,
        initialization: Initialization = "dcgan",
        size: int = 32,
        channels: int = 1,
        blocks: Blocks = "plain",
        normalization: Normalization = "batch",
    ) -> None:
        super().__init__()
        # No BatchNorm at the input: it would hide how bright the images are.
        self.first = nn.Sequential(nn.Conv2d(channels, features, 4, 2, 1), nn.LeakyReLU(0.2))  # half the size
        self.layers = shrink(features, size=size, blocks=blocks, normalized=normalization == "batch")
        last = widths(features, size)[-1]
        self.last = nn.Conv2d(last, 1, 4)  # 1x1
        initialize(self, initialization)
        self.embedding = nn.Embedding(classes, last * 4 * 4) if classes else None
        if self.embedding is not None:
            nn.init.zeros_(self.embedding.weight)  # at first, the class says nothing
        self.to(memory_format=torch.channels_last)  # faster on a CPU, and with Tensor Cores
        if normalization == "spectral":
            bound(self)

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] and their classes (B,), if it heeds them, to logits (B,)."""
        maps = self.layers(self.first(images))
        logits: Tensor = self.last(maps).flatten()
        if self.embedding is not None and classes is not None:
            logits = logits + (self.embedding(classes) * maps.flatten(1)).sum(1)
        return logits

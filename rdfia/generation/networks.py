"""The networks of DCGAN for 32x32 images.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016; widths and layers that people vary are keywords. Inside, images live in [-1, 1].
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.generation.clusters import Groups

Initialization = Literal["dcgan", "pytorch", "orthogonal"]
Upsampling = Literal["transposed", "nearest"]


def check_size(images: Tensor) -> None:
    """Check that the networks can take images.

    Raises:
        ValueError: They are not (B, 1, 32, 32).
    """
    if images.shape[1:] != (1, 32, 32):
        size = tuple(images.shape)
        mend = "a data module with image_size=32, channels=1"
        raise ValueError(f"images are (B, 1, 32, 32), got {size}; take {mend}")


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

    On a CPU wide ones are one matrix product, whose gradients take less time in bfloat16: a step of a DCGAN
    whose discriminator is 256 wide took 3.5 s in place of 6.1 s, on one thread (float32: 8.8 and 10.6 s).
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


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Return `Halve`, BatchNorm and LeakyReLU."""
    return nn.Sequential(Halve(inputs, outputs), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


def grow(features: int, upsampling: Upsampling = "transposed") -> nn.Sequential:
    """Return the layers from maps (B, 4 features, 4, 4) to images (B, 1, 32, 32) in [-1, 1].

    Args:
        features: Width of the maps at 16x16.
        upsampling: ``transposed`` convolutions as in the paper, or ``nearest`` neighbours and convolutions:
            neighbouring pixels then come from the same weights, without a pattern of a chessboard (Odena et
            al., "Deconvolution and Checkerboard Artifacts", Distill 2016), and hidden maps reach full size.
    """
    if upsampling == "nearest":
        last = max(features // 4, 4)
        layers = nn.Sequential(
            enlarge(4 * features, 2 * features),  # 8x8
            enlarge(2 * features, features),  # 16x16
            enlarge(features, last),  # 32x32
            nn.Conv2d(last, 1, 3, padding=1),
            nn.Tanh(),
        )
        return layers.to(memory_format=torch.channels_last)  # on a CPU twice as fast; transposed ones are not
    return nn.Sequential(
        up(4 * features, 2 * features),  # 8x8
        up(2 * features, features),  # 16x16
        nn.ConvTranspose2d(features, 1, 4, 2, 1),  # 32x32
        nn.Tanh(),
    )


def shrink(features: int) -> nn.Sequential:
    """Return the layers from maps (B, features, 16, 16) to maps (B, 4 features, 4, 4)."""
    return nn.Sequential(down(features, 2 * features), down(2 * features, 4 * features))


class Generator(nn.Module):
    """Latents (B, latent_dim), and groups that they choose themselves, to images (B, 1, 32, 32) in [-1, 1].

    Args:
        latent_dim: Numbers in a latent vector.
        features: Width of the maps at 16x16; the earlier ones have 2 and 4 times as many.
        upsampling: ``transposed`` or ``nearest``, see `grow`.
        groups: Whose choice stands beside the latents; None for latents alone.
        initialization: Of the weights, see `initialize`.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        features: int = 32,
        *,
        upsampling: Upsampling = "transposed",
        groups: Groups | None = None,
        initialization: Initialization = "dcgan",
    ) -> None:
        super().__init__()
        self.groups = groups
        self.first = up(latent_dim + (groups.count if groups else 0), 4 * features, 1, 0)  # 4x4
        self.layers = grow(features, upsampling)
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, 1, 32, 32) in [-1, 1]."""
        if self.groups is not None:
            latents = torch.cat([latents, self.groups(latents)], 1)
        images: Tensor = self.layers(self.first(latents[:, :, None, None]))
        return images


class Discriminator(nn.Module):
    """Images (B, 1, 32, 32) in [-1, 1], and their classes (B,), to logits (B,); large means real.

    Args:
        features: Width of the first layer; the later ones have 2 and 4 times as many.
        classes: Their number. The last maps are multiplied with learned ones of the class, and the sum is
            added to the logit: projection (Miyato & Koyama, "cGANs with Projection Discriminator", ICLR
            2018). With 0 it heeds no class.
        initialization: Of the weights, see `initialize`.
    """

    def __init__(
        self, features: int = 32, *, classes: int = 0, initialization: Initialization = "dcgan"
    ) -> None:
        super().__init__()
        # No BatchNorm at the input: it would hide how bright the images are.
        self.first = nn.Sequential(nn.Conv2d(1, features, 4, 2, 1), nn.LeakyReLU(0.2))  # 16x16
        self.layers = shrink(features)
        self.last = nn.Conv2d(4 * features, 1, 4)  # 1x1
        initialize(self, initialization)
        self.embedding = nn.Embedding(classes, 4 * features * 4 * 4) if classes else None
        if self.embedding is not None:
            nn.init.zeros_(self.embedding.weight)  # at first, the class says nothing
        self.to(memory_format=torch.channels_last)  # faster on a CPU, and with Tensor Cores

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Map images (B, 1, 32, 32) in [-1, 1] and their classes (B,), if it heeds them, to logits (B,)."""
        maps = self.layers(self.first(images))
        logits: Tensor = self.last(maps).flatten()
        if self.embedding is not None and classes is not None:
            logits = logits + (self.embedding(classes) * maps.flatten(1)).sum(1)
        return logits

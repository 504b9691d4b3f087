"""DCGAN (Radford et al. 2016) in plain PyTorch: digits from noise.

python examples/dcgan.py
"""

import copy

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from datamodules import MNISTDataModule


def generator(latent_dim: int = 100, width: int = 32) -> nn.Sequential:
    """Return a network from latents (B, latent_dim, 1, 1) to images (B, 1, 32, 32) in [-1, 1]."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, 4 * width, 4, bias=False)]
    for maps in (4 * width, 2 * width):
        layers += [nn.BatchNorm2d(maps), nn.ReLU()]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(maps, maps // 2, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Upsample(scale_factor=2), nn.Conv2d(width, 1, 3, padding=1), nn.Tanh())


def discriminator(width: int = 32) -> nn.Sequential:
    """Return a network from images (B, 1, 32, 32) in [-1, 1] to logits (B, 1, 1, 1) of being real."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for maps in (width, 2 * width):
        layers += [
            nn.Conv2d(maps, 2 * maps, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * maps),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4))


def initialize(layer: nn.Module) -> None:
    """Draw the weights of a convolution as DCGAN does."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0, 0.02)


def train(epochs: int = 20, *, seed: int = 0, lr: float = 2e-3, data_dir: str = "sample") -> nn.Module:
    """Return the moving average of the generator, which makes better images than its last weights."""
    torch.manual_seed(seed)
    digits = MNISTDataModule(data_dir, batch_size=64, image_size=32, seed=seed)
    digits.setup()
    g, d = generator().apply(initialize), discriminator().apply(initialize)
    average = copy.deepcopy(g)
    optimizers = [torch.optim.Adam(network.parameters(), lr, (0.5, 0.99)) for network in (g, d)]
    for _ in range(epochs):
        for images, _ in digits.train_dataloader():
            fake = g(torch.randn(len(images), 100, 1, 1))
            real, judged = d(2 * images - 1), d(fake.detach())
            loss = binary_cross_entropy_with_logits(real, torch.ones_like(real))
            loss = loss + binary_cross_entropy_with_logits(judged, torch.zeros_like(judged))
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
            judged = d(fake)  # the generator is to be taken for real (non-saturating loss)
            optimizers[0].zero_grad()
            binary_cross_entropy_with_logits(judged, torch.ones_like(judged)).backward()
            optimizers[0].step()
            with torch.no_grad():
                for mean, value in zip(average.state_dict().values(), g.state_dict().values(), strict=True):
                    mean.lerp_(value, 0.01) if mean.is_floating_point() else mean.copy_(value)
    return average.eval()


if __name__ == "__main__":
    from torchvision.utils import save_image

    save_image(train()(torch.randn(64, 100, 1, 1)).detach() / 2 + 0.5, "digits.png")
    print("64 digits in digits.png")

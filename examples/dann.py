"""DANN (Ganin et al. 2016) in plain PyTorch: from MNIST with labels to MNIST-M without.

python examples/dann.py
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from datamodules import MNISTToMNISTMDataModule


class Reverse(torch.autograd.Function):
    """The identity, whose gradient is reversed and weighted by lambda."""

    @staticmethod
    def forward(context: Any, features: Tensor, weight: float) -> Tensor:
        """Return the features as they are."""
        context.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the reversed gradient, and none for the weight."""
        return -context.weight * gradient, None


def block(channels: int, maps: int) -> nn.Sequential:
    """Return convolution, pooling, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, maps, 5, padding=2), nn.MaxPool2d(2), nn.BatchNorm2d(maps), nn.ReLU()
    )


def hidden(inputs: int, units: int = 100) -> nn.Sequential:
    """Return a hidden layer."""
    return nn.Sequential(nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU())


def standardized(images: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1, so that both domains lie in one range."""
    return (images - images.mean((1, 2, 3), keepdim=True)) / (images.std((1, 2, 3), keepdim=True) + 1e-6)


def train(epochs: int = 20, *, adapt: bool = True, seed: int = 0, data_dir: str = "sample") -> float:
    """Train on labels of the source and images of the target; return the accuracy on the target's test."""
    torch.manual_seed(seed)
    digits = MNISTToMNISTMDataModule(data_dir, batch_size=64, seed=seed)
    digits.setup()
    features = nn.Sequential(block(3, 32), block(32, 48), nn.Flatten())
    classes = nn.Sequential(hidden(48 * 7 * 7), hidden(100), nn.Linear(100, 10))
    domain = nn.Sequential(hidden(48 * 7 * 7), nn.Linear(100, 1))
    parameters = [weight for part in (features, classes, domain) for weight in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999))
    loader = digits.train_dataloader()
    steps_per_epoch = len(digits.target.train_data) // 64
    for epoch in range(epochs):
        for number, (batch, _, _) in enumerate(loader):
            progress = (epoch + number / steps_per_epoch) / epochs
            weight = 2 / (1 + math.exp(-10 * progress)) - 1
            (images, labels), (others, _) = batch["source"], batch["target"]  # no label of the target
            source, target = features(standardized(images)), features(standardized(others))
            loss = cross_entropy(classes(source), labels)
            if adapt:
                for part, true in ((source, 0.0), (target, 1.0)):
                    logits = domain(Reverse.apply(part, weight)).flatten()
                    loss = loss + binary_cross_entropy_with_logits(logits, torch.full_like(logits, true)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network = nn.Sequential(features, classes)
    with torch.no_grad():  # BatchNorm with the statistics of the target's training images
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None
        for images in digits.target.train_data.batches():
            network(standardized(images))
        network.eval()
        test = digits.target.test_data
        predicted = torch.cat([network(standardized(images)).argmax(1) for images in test.batches()])
    return (predicted == test.labels).double().mean().item()


if __name__ == "__main__":
    print(f"source only {train(adapt=False):.3f}, DANN {train():.3f} on the target's test images")

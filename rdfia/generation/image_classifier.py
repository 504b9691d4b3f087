"""A small classifier of real images, by which a conditional GAN's are read: is a dog a dog?

What the digit judge is for digits; trained on the data set itself, so its own accuracy belongs beside
each that it measures.
"""

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.draws import drawn
from rdfia.generation.augmentation import translate, whole

SIDE = 32  # of what it looks at: larger images are averaged down to it
STEPS, BATCH = 2000, 128
RATE = 3e-3  # the highest of a one-cycle schedule
MOST_SHIFT = 2  # pixels
SAID_FIRST, SAID_EVERY = 10, 200  # steps


class ImageClassifier(nn.Module):
    """A CNN of six convolutions for images (B, C, H, W) in [0, 1].

    Args:
        classes: Their number.
        channels: C.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for outputs in (32, 64, 128):
            for inputs in (width, outputs):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            width = outputs
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to logits (B, classes)."""
        small = functional.adaptive_avg_pool2d(images, SIDE) if images.shape[-1] > SIDE else images
        logits: Tensor = self.head(self.trunk(small - 0.5).mean((2, 3)))
        return logits


def steps_for(count: int) -> int:
    """Return how many steps a classifier of so many images takes: about 60 times each, within limits."""
    return min(STEPS, max(STEPS // 10, 60 * count // BATCH))


def fit_classifier(
    batch_of: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    classes: int,
    channels: int,
    device: torch.device,
    *,
    steps: int = STEPS,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> ImageClassifier:
    """Return a classifier trained on images that are shifted a little, frozen and in eval mode.

    Args:
        batch_of: Returns images (B, C, H, W) in [0, 1] and labels (B,), by their rows (B,).
        count: Of all images.
        classes: Of theirs.
        channels: C.
        device: Where it is trained, in float32.
        steps: Batches of 128, drawn at random.
        seed: Of weights and draws.
        say: Is told now and then how long it will still take.
    """
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ImageClassifier(classes, channels).to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with torch.enable_grad():
        for step in range(steps):
            numbers = drawn(BATCH, 3, (seed, 12, step))
            images, labels = batch_of((numbers[:, 0] * count).long())
            down, right = (whole(numbers[:, place], -MOST_SHIFT, MOST_SHIFT).to(device) for place in (1, 2))
            logits = classifier(translate(images.to(device), down, right))
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels.to(device)).backward()
            optimizer.step()
            schedule.step()
            done = step + 1
            if (done == SAID_FIRST or done % SAID_EVERY == 0) and done < steps:
                left = (time.perf_counter() - started) * (steps - done) / done
                say(f"step {done:,} of {steps:,} of the classifier, about {left:,.0f} s left")
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def confusion(
    classifier: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int, device: torch.device
) -> Tensor:
    """Return how often images of each class were read as each, (classes, classes).

    Args:
        classifier: Maps images to logits (B, classes).
        batches: Images (B, C, H, W) and labels (B,).
        classes: Their number.
        device: Where the classifier is.
    """
    found = torch.zeros(classes, classes, dtype=torch.int64)
    for part, known in batches:
        read = classifier(part.to(device)).argmax(1).cpu()
        found += torch.bincount(known.cpu() * classes + read, minlength=classes**2).reshape(classes, classes)
    return found


def accuracies(counts: Tensor) -> tuple[float, list[float]]:
    """Return the share that was read right, and that of each class (nan where there was none)."""
    right = counts.diagonal().double()
    return float(right.sum() / counts.sum()), (right / counts.sum(1)).tolist()

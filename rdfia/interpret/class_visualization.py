"""Class visualisation: images of what a network takes for a class, by ascending its logit.

Simonyan et al., "Deep Inside Convolutional Networks", 2014, with the regularisers of Yosinski et al.,
"Understanding Neural Networks Through Deep Visualization", 2015, and of Olah et al., "Feature Visualization",
Distill 2017: an image that only raises the logit is noise to people and to other networks.

Many classes are drawn at once, each for itself. Networks take images in [0, 1] and are left as they were.

    python scripts/visualize.py class --data-dir /path/to/data
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rdfia.common.checks import as_classes, check_classes, check_images
from rdfia.common.draws import drawn, keyed_generator
from rdfia.common.exact import exact
from rdfia.common.optimization import lr_factor, set_lr
from rdfia.common.progress import progress
from rdfia.common.views import similarity, transformed
from rdfia.interpret.classifier import all_logits, frozen_eval, l2_norms, own_logits
from rdfia.interpret.saliency import gaussian_blur

# Colours of photographs hang together: the square root of their covariance (Olah et al. 2017).
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / 0.4619524


def fourier_image(spectrum: Tensor, size: int) -> Tensor:
    """Return images (B, 3, size, size) in (0, 1) of a spectrum (B, 3, size, size // 2 + 1, 2).

    Low frequencies are weighed as photographs have them, and colours hang together as there: steps of one
    size then change what matters, not single pixels (Olah et al. 2017).
    """
    y, x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.sqrt(x**2 + y**2)
    weight = torch.from_numpy(size / np.maximum(frequency, 1 / size)).to(spectrum)
    waves = torch.view_as_complex(spectrum.contiguous()) * weight
    maps = torch.fft.irfft2(waves, s=(size, size)) / 4
    with torch.autocast(maps.device.type, enabled=False):  # only the models' passes are rounded
        colours = torch.einsum("bchw,dc->bdhw", maps, COLOURS.to(maps))
    return colours.sigmoid()


def random_parts(images: Tensor, numbers: Tensor, smallest: float, rotation: float) -> Tensor:
    """Return a part of each image, at its size, turned, and mirrored half of the time.

    Args:
        images: (B, C, H, W).
        numbers: (B, 5) uniform in [0, 1], on which all depends.
        smallest: Share of the area that a part has at least.
        rotation: Degrees at most.
    """
    area, turn, right, down, mirror = numbers.float().unbind(1)
    side = (smallest + (1 - smallest) * area).sqrt()
    angle, room = (2 * turn - 1) * math.radians(rotation), 1 - side
    matrices = similarity(angle, side, room * (2 * right - 1), room * (2 * down - 1))
    matrices[:, :, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)[:, None]
    return transformed(images, matrices, "reflection")


def total_variation(images: Tensor) -> Tensor:
    """Return the mean over pixels and channels of the squared differences of neighbours, (B,)."""
    across = (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3))
    return across + down


def moved(
    images: Tensor, numbers: Tensor | None, key: tuple[int, int], *, jitter: int, crop: float, rotation: float
) -> Tensor:
    """Return images (B, 3, H, W) as one step sees them: rolled, all alike, then random parts of each.

    Args:
        images: In [0, 1].
        numbers: (B, 5) in [0, 1), which say what part is seen; None for whole images.
        key: Seed and step, of the roll.
        jitter: Pixels at most that they are rolled by.
        crop: Least share of the area of a part.
        rotation: Degrees at most that it is turned by.
    """
    if jitter:
        of_the_roll = key if numbers is None else (*key, 1)  # those without are of the parts
        shifts = np.random.default_rng(of_the_roll).integers(-jitter, jitter + 1, 2).tolist()
        images = torch.roll(images, shifts, (2, 3))
    return images if numbers is None else random_parts(images, numbers, crop, rotation)


@exact()
def visualize_classes(
    models: Sequence[nn.Module] | nn.Module,
    classes: Tensor | Sequence[int],
    *,
    size: int = 224,
    start: Tensor | None = None,
    parametrization: Literal["pixels", "fourier"] = "pixels",
    steps: int = 200,
    rate: float = 5.0,
    penalty: float = 1e-3,
    smoothness: float = 0.0,
    blur_every: int = 10,
    blur: float = 0.5,
    jitter: int = 16,
    crop: float = 1.0,
    rotation: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Return images (N, 3, size, size) in [0, 1] that raise the logits of classes.

    With ``pixels``, each step goes ``rate`` along the direction of the gradient, in units in which an image
    has a standard deviation of about 1, as the practicals do; with ``fourier``, steps are Adam's, whose
    learning rate falls from ``rate`` (0.05 is usual) along half a cosine.

    Args:
        models: One or several, from images (B, 3, H, W) in [0, 1] to logits (B, K), whose mean is raised.
        classes: (N,), what to draw.
        size: Side of the images.
        start: (N, 3, size, size) in [0, 1] to begin with; else grey noise. For ``pixels``.
        parametrization: What is changed: pixels, or the spectrum of `fourier_image`.
        steps: Their number.
        rate: Size of a step.
        penalty: Weight of the squared length of the image, from grey.
        smoothness: Weight of `total_variation`.
        blur_every: The image is blurred after so many steps; 0 for never. For ``pixels``.
        blur: Standard deviation of the blur in pixels.
        jitter: All images are rolled by at most so many pixels before each step, all alike.
        crop: Each step sees a random part of each image, mirrored or not, of at least this share of its
            area; 1 for the whole image. What is recognised in parts of any size, others recognise, too.
        rotation: The parts are turned by at most so many degrees.
        seed: Of noise and jitter. An image depends on its place among ``classes`` and the seed alone.
        batch_size: Images that go through the models at once, which bounds the memory.
        watch: Called with the number of the step and all images of the batch, before the first step too.

    Raises:
        ValueError: A spectrum cannot begin with an image.
    """
    if parametrization == "fourier" and start is not None:
        raise ValueError("--parametrization fourier begins with noise; take pixels to begin with an image")
    models = [models] if isinstance(models, nn.Module) else models
    classes = torch.as_tensor(classes)
    if start is not None:
        check_images(start, "start")
    fourier, parts, found = parametrization == "fourier", crop < 1 or rotation != 0, []
    for indices in torch.split(torch.arange(len(classes)), batch_size):
        asked = classes[indices]
        generator = [keyed_generator([seed, int(place)]) for place in indices]
        if start is not None:
            variable = (start[indices] - 0.5) / 0.25
        else:
            shape = (3, size, size // 2 + 1, 2) if fourier else (3, size, size)
            noise = torch.stack([torch.randn(shape, generator=one) for one in generator])
            variable = ((0.01 if fourier else 0.1) * noise).to(classes.device)
        variable = variable.clone().requires_grad_()
        optimizer = torch.optim.Adam([variable], lr=rate) if fourier else None

        def image(variable: Tensor = variable) -> Tensor:
            return fourier_image(variable, size) if fourier else variable / 4 + 0.5

        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            asks = [stack.enter_context(frozen_eval(model)) for model in models]
            for step in progress(range(steps), "class visualisation"):
                shown = image()
                if watch:
                    watch(step, shown.detach().clamp(0, 1))
                # Drawn for all classes, so that an image does not depend on its batch.
                numbers = drawn(len(classes), 5, (seed, step))[indices] if parts else None
                seen = moved(shown, numbers, (seed, step), jitter=jitter, crop=crop, rotation=rotation)
                logits = torch.stack([ask(seen) for ask in asks]).mean(0)
                score = own_logits(logits, asked) - penalty * ((shown - 0.5) * 4).square().sum((1, 2, 3))
                score = score - smoothness * total_variation(shown)
                (gradients,) = torch.autograd.grad(score.sum(), variable)
                with torch.no_grad():
                    if optimizer is not None:
                        set_lr(optimizer, rate * lr_factor(step / steps, "cosine"))
                        variable.grad = -gradients
                        optimizer.step()
                        continue
                    variable += rate * gradients / l2_norms(gradients).clamp(min=1e-12)
                    variable.clamp_(-2, 2)  # [0, 1] in pixels
                    if blur_every and (step + 1) % blur_every == 0:
                        variable.copy_(gaussian_blur(variable, blur))
            done = image().detach().clamp(0, 1)
            if watch:
                watch(steps, done)
        found.append(done)
    return torch.cat(found)


def recognized(
    model: nn.Module, images: Tensor, classes: Tensor, *, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Return the probability of each image's class, (N,), and how many classes are more probable, (N,)."""
    check_images(images)
    classes = as_classes(classes, images, "classes")
    logits = all_logits(model, images, batch_size)
    check_classes(classes, logits.shape[1], "classes")
    own = own_logits(logits, classes)
    return own_logits(logits.softmax(1), classes), (logits > own[:, None]).sum(1)

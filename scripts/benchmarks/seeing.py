"""The benchmark of looking inside: class visualisation, SmoothGrad and the one-pixel attack."""

import functools
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import HALF, Args, in_turns, ratio, seconds_of

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 25  # that are drawn at once
IMAGES = 4  # that SmoothGrad and the one-pixel attack look at
SAMPLES = 50  # of SmoothGrad


def draw_alone(network: "nn.Module", label: int, steps: int) -> None:
    """Draw one class as the practicals do: float32, one image at a time, at their settings."""
    import numpy as np
    import torch

    from rdfia.interpret.saliency import gaussian_blur

    image, generator = 0.1 * torch.randn(1, 3, 224, 224), np.random.default_rng(label)
    for step in range(steps):
        down, right = generator.integers(-16, 17, 2).tolist()
        image = torch.roll(image, (down, right), (2, 3)).requires_grad_()
        shown = image / 4 + 0.5
        score = network(shown)[0, label] - 1e-3 * ((shown - 0.5) * 4).square().sum()
        score.backward()
        assert image.grad is not None
        image = image.detach() + 5 * image.grad / image.grad.norm()
        image = torch.roll(image, (-down, -right), (2, 3)).clamp(-2, 2)
        if (step + 1) % 10 == 0:
            image = gaussian_blur(image, 0.5)


def pixel_success(
    plain: "nn.Module",
    ours: "nn.Module",
    images: "torch.Tensor",
    labels: "torch.Tensor",
    looked_at: list[int],
) -> dict[str, float]:
    """Change one pixel of each image classified right: torchattacks' defaults, ours asking as often.

    Args:
        plain: The usual network, which notes in ``looked_at`` how many images go through it.
        ours: The same.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        looked_at: What ``plain`` notes.
    """
    import numpy as np
    import torchattacks

    from rdfia.interpret.attack_results import rounded
    from rdfia.interpret.black_box_attacks import few_pixels
    from rdfia.interpret.classifier import predict

    right = predict(plain, images) == labels
    everything, truth = images[right], labels[right]
    np.random.seed(0)  # noqa: NPY002
    looked_at.clear()
    theirs = torchattacks.OnePixel(plain)(everything, truth)
    asked = sum(looked_at) // len(truth)
    predictions = predict(plain, rounded(theirs))
    found = few_pixels(ours, everything, truth, population=asked // 5, iterations=4)
    return {
        "pixel_images": len(truth),
        "usual_pixel_queries": asked,
        "usual_pixel_success": round(float((predictions != truth).double().mean()), 3),
        "our_pixel_queries": int(found.queries.max()),
        "our_pixel_success": round(found.success_rate(), 3),
    }


def measure_seeing(args: Args) -> dict[str, Any]:
    """Measure in turns, on SqueezeNet and the ImageNet samples.

    Raises:
        ValueError: captum or torchattacks is not installed.
    """
    try:
        import captum.attr
        import torchattacks
    except ImportError as error:
        raise ValueError(f"{error}: pip install captum && pip install --no-deps torchattacks") from error
    import numpy as np
    import torch

    from datamodules.imagenet_samples import ImageNetSamplesDataModule
    from rdfia.common.backbones import load_backbone
    from rdfia.interpret.black_box_attacks import few_pixels
    from rdfia.interpret.class_visualization import visualize_classes
    from rdfia.interpret.saliency import smooth_grad

    samples = ImageNetSamplesDataModule(args.data_dir)
    samples.prepare_data()
    samples.setup()
    images, labels = samples.data[list(range(min(IMAGES, len(samples.data))))]
    plain = load_backbone("squeezenet1_1", data_dir=args.data_dir).eval().requires_grad_(False)
    ours = load_backbone("squeezenet1_1", data_dir=args.data_dir).to(memory_format=torch.channels_last)
    compiled: Any = torch.compile(ours, options={"freezing": True})
    classes = torch.arange(CLASSES) * 40
    looked_at: list[int] = []  # images that went through the usual network
    plain.register_forward_hook(lambda _, inputs, __: looked_at.append(len(inputs[0])))

    def usual_class() -> float:
        def draw(labels: list[int]) -> None:
            for label in labels:
                draw_alone(plain, label, args.steps)

        return seconds_of(lambda: draw(classes[:2].tolist())) / 2

    def our_class(dtype: "torch.dtype | None" = None) -> float:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            drawn = seconds_of(lambda: visualize_classes([ours], classes, steps=args.steps, rate=5.0))
        return drawn / len(classes)

    def usual_smooth_grad() -> float:
        noise = 0.15 * float(images.amax() - images.amin())
        tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(plain))
        given = {"nt_samples": SAMPLES, "stdevs": noise, "target": labels, "nt_samples_batch_size": 16}
        return seconds_of(lambda: tunnel.attribute(images.clone(), abs=False, **given))

    def our_smooth_grad(dtype: "torch.dtype | None" = None) -> float:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return seconds_of(lambda: smooth_grad(ours, images, labels, samples=SAMPLES))

    def usual_pixel() -> float:
        np.random.seed(0)  # noqa: NPY002 - scipy's evolution, as torchattacks calls it, draws from these
        looked_at.clear()
        return seconds_of(lambda: torchattacks.OnePixel(plain)(images, labels)) / sum(looked_at)

    def our_pixel(dtype: "torch.dtype | None" = None, network: Any = ours) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            found = few_pixels(network, images, labels, population=100, iterations=4)
        return (time.perf_counter() - started) / int(found.queries.sum())

    work = {"usual_class": usual_class, "our_class": our_class, "usual_smooth_grad": usual_smooth_grad}
    work |= {"our_smooth_grad": our_smooth_grad, "usual_pixel": usual_pixel, "our_pixel": our_pixel}
    if HALF:
        for run in (our_class, our_smooth_grad, our_pixel):
            work[f"{run.__name__}_bf16"] = functools.partial(run, torch.bfloat16)
    last = "our_pixel_bf16_compiled" if HALF else "our_pixel_compiled"
    work[last] = functools.partial(our_pixel, torch.bfloat16 if HALF else None, compiled)
    compiling = seconds_of(work[last])  # once, before the turns
    times = in_turns(args.repeats, work)
    usual = ("usual_class", "usual_smooth_grad", "usual_pixel")
    compared = {name: one for name in work for one in usual if name.startswith(one.replace("usual", "our"))}
    return {
        "steps": args.steps,
        **{f"{name}_seconds": round(median(values), 5) for name, values in times.items()},
        **{f"{name}_times_as_fast": ratio(times[usual], times[name]) for name, usual in compared.items()},
        "first_compiled_pixel_seconds": round(compiling, 1),
        **pixel_success(plain, ours, *samples.data[list(range(len(samples.data)))], looked_at),
    }

"""The benchmark of GANs of all sizes: a step beside the bare one, and the memory of scores."""

import os
import subprocess
import sys
from functools import partial
from statistics import median
from typing import Any

from benchmarks.common import WARM, Args, in_turns, random_images, ratio, seconds_a_batch
from benchmarks.gan import bare_seconds

# Images in a step, fewer where they are larger, and how many steps are measured at most.
SIZES = {32: (64, 30), 64: (32, 12), 128: (16, 6)}
COUNTS = (1_000, 10_000, 50_000)
# Prints by how many MB a process grows at most; features of random images take as much memory as any. malloc
# gives back what is freed: else the peak would also tell how it was cut up.
SCORES = """
import pathlib, sys
import torch
from rdfia.generation.feature_scores import FeatureScores

class Random(torch.nn.Module):
    def forward(self, images):
        return torch.randn(len(images), 512)

def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

scores, images = FeatureScores(Random()), torch.rand(500, 3, 32, 32)
for real in (True, False):  # once, for the memory that libraries take at first
    scores.update(torch.rand(500, 3, 32, 32), real=real)
scores.compute()
scores.reset()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = kilobytes("VmRSS")
for _ in range(int(sys.argv[1]) // 500):
    for real in (True, False):
        scores.update(images, real=real)
scores.compute()
print((kilobytes("VmHWM") - before) / 1024)
"""


def measure_gan_sizes(args: Args) -> dict[str, Any]:
    """Measure steps of the practicals' recipe in turns, ours and bare, and the memory of scores."""
    import torch

    from rdfia.generation.gan import PRACTICAL, GANModule

    found: dict[str, Any] = {}
    for size, (batch, most) in SIZES.items():
        steps = min(args.steps, most)
        images = random_images((WARM + steps + 3) * batch * 12 // 10, size, batch)
        images.setup()
        build = partial(GANModule, **PRACTICAL | {"channels": 3, "image_size": size})

        def ours(build: Any = build, images: Any = images, steps: int = steps) -> float:
            torch.manual_seed(0)
            return seconds_a_batch(build(), images, steps, "val/squeezenet_fid", "float32")

        def bare(build: Any = build, images: Any = images, steps: int = steps) -> float:
            torch.manual_seed(0)
            return bare_seconds(build(), images, steps, half=False)

        times = in_turns(args.repeats, {"our": ours, "bare": bare})
        found[f"images_a_step_{size}"] = batch
        for name, values in times.items():
            found[f"{name}_step_seconds_{size}"] = round(median(values), 4)
        found[f"over_bare_step_{size}"] = ratio(times["our"], times["bare"])
    for count in COUNTS[: 1 if args.steps < WARM else None]:
        command = [sys.executable, "-c", SCORES, str(count)]
        giving_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        grown = subprocess.run(command, check=True, capture_output=True, text=True, env=giving_back).stdout
        found[f"scores_mb_{count}"] = round(float(grown))
    return found

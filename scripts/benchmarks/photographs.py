"""The benchmark of a step of domain adaptation that trains a pretrained network."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from benchmarks.common import HALF, Args, in_turns, random_images, ratio, seconds_a_batch

SIZE, BATCH = 224, 32
STEPS, WARM = 8, 2  # at most, and before those that count: one takes seconds


def random_photographs(count: int) -> Any:
    """Return a pair of data modules of random pixels, which take no time to read."""
    from datamodules.domain_pair import DomainPairDataModule

    domains = [random_images(count, SIZE, BATCH) for _ in range(2)]
    pair = DomainPairDataModule(*domains, batch_size=BATCH)
    pair.setup()
    return pair


def measure_photographs(args: Args) -> dict[str, Any]:
    """Measure steps of DANN on ResNet-18, all of it trained, ours and bare, in float32 and in bfloat16."""
    import torch
    import torchvision
    from torch import nn
    from torch.nn import functional

    from rdfia.adaptation.dann import OFFICE, DANNModule
    from rdfia.adaptation.losses import domain_loss, ganin, reverse_gradient

    steps = min(args.steps, STEPS)
    pair = random_photographs((WARM + steps + 3) * BATCH * 12 // 10)
    settings = OFFICE | {"network": "resnet18/avgpool", "weights": "random", "augment": ()}
    mean, std = (
        torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def ours(precision: Any) -> float:
        torch.manual_seed(0)
        module = DANNModule(**settings, image_size=SIZE)
        return seconds_a_batch(module, pair, steps, "val/source_accuracy", precision, WARM)

    def bare(half: bool) -> float:
        """Time the step as one writes it in plain PyTorch, BatchNorm of the trunk in eval mode as ours."""
        torch.manual_seed(0)
        trunk = torchvision.models.resnet18(weights=None)
        trunk.fc = nn.Identity()
        trunk.eval().to(memory_format=torch.channels_last)
        neck = nn.Sequential(nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU())
        head = nn.Linear(256, 10)
        hidden = [nn.Linear(256, 1024), nn.BatchNorm1d(1024), nn.ReLU()]
        hidden += [nn.Linear(1024, 1024), nn.BatchNorm1d(1024), nn.ReLU()]
        domain = nn.Sequential(*hidden, nn.Linear(1024, 1))
        new = [weight for part in (neck, head, domain) for weight in part.parameters()]
        groups: list[dict[str, Any]] = [{"params": new}, {"params": list(trunk.parameters()), "lr": 0.001}]
        options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
        optimizer = torch.optim.SGD(groups, fused=True, **options)
        for step, (batch, _, _) in enumerate(pair.train_dataloader()):
            if step == WARM:
                started = time.perf_counter()
            if step == WARM + steps:
                break
            (source, labels), (target, _) = batch["source"], batch["target"]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                features = [
                    neck(trunk(((images - mean) / std).contiguous(memory_format=torch.channels_last)))
                    for images in (source, target)
                ]
                strength = ganin(step / (WARM + steps))
                told = [domain(reverse_gradient(part, strength))[:, 0] for part in features]
                loss = functional.cross_entropy(head(features[0]).float(), labels) + domain_loss(*told)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - started) / steps

    formats: dict[str, Any] = {"float32": "float32"} | ({"bf16": "bf16-mixed"} if HALF else {})
    work: dict[str, Callable[[], float]] = {}
    for name, precision in formats.items():
        work[f"our_{name}"] = partial(ours, precision)
        work[f"bare_{name}"] = partial(bare, name == "bf16")
    times = in_turns(args.repeats, work)
    return {
        "steps": steps,
        **{f"{name}_step_seconds": round(median(values), 4) for name, values in times.items()},
        **{f"{name}_over_bare_step": ratio(times[f"our_{name}"], times[f"bare_{name}"]) for name in formats},
    }

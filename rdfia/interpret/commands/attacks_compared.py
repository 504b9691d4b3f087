"""What attacks are compared by: size, network, target; and a patch for all images."""

from pathlib import Path
from typing import Any

import torch

from rdfia.common import plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import runs
from rdfia.interpret import adversarial, attack_results, robust_attacks
from rdfia.interpret.classifier import all_logits, predict
from rdfia.interpret.commands.attacks import also_fooled, attack, share, to_attack
from rdfia.interpret.commands.common import Shown, class_of, classes_of
from rdfia.interpret.config import NO_CLASS, Adversarial
from rdfia.interpret.saliency import rank_correlation

TOASTER = 859  # what the patch of the paper turns everything into


def success_curves(
    args: Adversarial,
    network: Any,
    images: torch.Tensor,
    truth: torch.Tensor,
    folder: Path,
    trainer: Any,
) -> dict[str, list[float]]:
    """Draw the share of images that fool against the size of the change, for fgsm, pgd and pgd_l2."""
    metrics: dict[str, list[float]] = {}
    units = {"success": "L-infinity distance in grey levels of 255", "success_l2": "L2 distance"}
    panels: dict[str, dict[str, Any]] = {}
    intervals: dict[str, list[tuple[float, float]]] = {}
    for name in [name for name in ("fgsm", "pgd", "pgd_l2") if name in args.attacks]:
        levels, unit = (args.curve_l2, 1) if name == "pgd_l2" else (args.curve, 255)
        lines: dict[str, list[float]] = {name: [], f"{name}, before 8 bits": []}
        ever = {line: torch.zeros(len(images), dtype=torch.bool, device=images.device) for line in lines}
        for level in sorted(levels):
            found = attack(args, name, network, images, truth, epsilon=level / unit)[0]
            both = {"success": found.success, "success_unrounded": found.success_unrounded}
            for (line, rates), (score, success) in zip(lines.items(), both.items(), strict=True):
                # What pgd found nearer by lies in the larger ball, too; fgsm takes one step of full length.
                ever[line] = success if name == "fgsm" else success | ever[line]
                rates.append(float(ever[line].double().mean()))
                metrics |= share(f"{name}/{score}_at_{level:g}", ever[line])
        for line, rates in lines.items():
            intervals[line] = [runs.wilson(rate, len(images)) for rate in rates]
            panels.setdefault("success_l2" if name == "pgd_l2" else "success", {})[line] = (
                sorted(levels),
                rates,
            )
    for panel, drawn in panels.items():
        label = axis_label(f"share of {len(images)} images that fools, 95 % interval", share=True)
        figure = plots.curves({label: drawn}, x_label=units[panel], log_x=True, intervals=intervals)
        runs.save_figure(folder, panel, figure, trainer)
    return metrics


def transfer_matrix(
    args: Adversarial, name: str, networks: dict[str, Any], shown: Shown, folder: Path, trainer: Any
) -> dict[str, list[float]]:
    """Attack each network; return, of what fools it, the share that fools each other one that was right."""
    shares = torch.full((len(networks), len(networks)), torch.nan)
    metrics: dict[str, list[float]] = {}
    for row, (maker, network) in enumerate(networks.items()):
        images, truth, *_ = to_attack(args, shown, network)
        found = attack(args, name, network, images, truth)[0]
        for column, (other_name, other) in enumerate(networks.items()):
            hits = found.success
            if not hits.any():
                continue
            also = also_fooled(other, images[hits], found.images[hits], truth[hits], args.batch_size)
            if len(also):
                shares[row, column] = float(also.double().mean())
                metrics |= share(f"matrix/{name}/{maker}/{other_name}", also)
    names = list(networks)
    figure = plots.matrix(shares, names, names, labels=(f"{name} made on", "fools"))
    runs.save_figure(folder, "transfer_matrix", figure, trainer)
    return metrics


def influence_of_targets(
    args: Adversarial,
    network: Any,
    images: torch.Tensor,
    truth: torch.Tensor,
    folder: Path,
    trainer: Any,
) -> dict[str, list[float]]:
    """Fool each image to several targets; return how far a target is, by how probable it was before."""
    generator, count = torch.Generator().manual_seed(args.seed), len(classes_of(network))
    steps = torch.stack(
        [torch.randperm(count - 1, generator=generator)[: args.targets_per_image] + 1 for _ in images]
    )
    targets = ((truth[:, None] + steps.to(truth)) % count).flatten()
    several, own = (
        images.repeat_interleave(args.targets_per_image, 0),
        truth.repeat_interleave(args.targets_per_image),
    )
    logits = all_logits(network, several, args.batch_size)
    rank = (logits > logits.gather(1, targets[:, None])).sum(1)  # 0: the most probable class
    found = adversarial.fool(network, several, own, targets, batch_size=args.batch_size)
    rank, distance = rank[found.success].cpu(), found.l2[found.success].cpu()
    order = rank.argsort()
    parts = [part for part in order.chunk(min(8, max(len(order), 1))) if len(part)]
    line = [[float(values[part].double().median()) for part in parts] for values in (rank + 1, distance)]
    figure = plots.curves(
        {"median L2 of the change": {"fool": (line[0], line[1])}}, x_label="rank of the target before"
    )
    runs.save_figure(folder, "influence_of_the_target", figure, trainer)
    alike = rank_correlation(rank[None].double(), distance[None].double()) if len(rank) else torch.zeros(1)
    # One image is one trial, whatever the number of its targets.
    metrics = {"influence/success": [float(found.success.double().mean())]}
    metrics["influence/success_of"] = [float(len(images))]
    metrics["influence/correlation_with_rank"] = [float(alike)]
    ends = {"nearest": line[1][0], "farthest": line[1][-1]} if parts else {}
    return metrics | {f"influence/median_l2_of_{end}_eighth": [value] for end, value in ends.items()}


def attack_with_patch(
    args: Adversarial,
    network: Any,
    images: torch.Tensor,
    truth: torch.Tensor,
    folder: Path,
    trainer: Any,
) -> dict[str, list[float]]:
    """Make one patch with every other image; return what share of the others it turns into the target."""
    classes = classes_of(network)
    target = class_of(args.target, classes) if args.target not in NO_CLASS else TOASTER % len(classes)
    others = images[truth != target]  # where the target is not named, it has a class all the same
    train, held_out = others[::2], others[1::2]
    area = args.patch_size**2 / (images.shape[2] * images.shape[3])
    if not len(held_out):
        return {"success": [float("nan")], "share_of_the_area": [area]}
    patch = robust_attacks.patch(
        network,
        train,
        target,
        size=args.patch_size,
        steps=args.patch_steps,
        at_once=args.batch_size,
        seed=args.seed,
    )
    views = 5
    seen = [robust_attacks.with_patch(held_out, patch, (args.seed, 1_000_000, view)) for view in range(views)]
    predicted = torch.stack([predict(network, one, args.batch_size) for one in seen])
    shown = torch.cat([torch.nn.functional.interpolate(patch[None], images.shape[2:]), seen[0][:11]])
    captions = ["the patch", *(classes[int(one)] for one in predicted[0][:11])]
    title = f"a patch for {classes[target]}, on images that it was not made with"
    figure = plots.captioned(attack_results.rounded(shown).cpu(), captions, columns=6, title=title, side=2.2)
    runs.save_figure(folder, "patch", figure, trainer)
    # One image is one trial, whatever the number of its views.
    rate = [float((predicted == target).double().mean())]
    return {"success": rate, "success_of": [float(len(held_out))], "share_of_the_area": [area]}

"""The subcommand adversarial of visualize.py: attacks, judged as files hold them, and what transfers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rdfia.common import plots
from rdfia.engine import runs
from rdfia.interpret import attack_results, network_plots, robust_attacks
from rdfia.interpret.classifier import predict
from rdfia.interpret.commands import attacks_compared as compared
from rdfia.interpret.commands.attacks import (
    aim,
    also_fooled,
    attack,
    pick_targets,
    scrambled,
    share,
    to_attack,
)
from rdfia.interpret.commands.common import (
    Numbers,
    Shown,
    class_of,
    classes_of,
    kept_as_png,
    notes_on_classes,
    once,
)
from rdfia.interpret.config import NO_CLASS, Adversarial
from rdfia.interpret.saliency import gradient, rank_correlation


def prepare_attacks(
    args: Adversarial, networks: dict[str, Any], shown: Shown
) -> Callable[[Path, Any], Numbers]:
    """Check target and weights; return what attacks, judges and draws, for a folder and a trainer."""
    classes = classes_of(networks[args.backbone])
    if args.target not in NO_CLASS:
        class_of(args.target, classes)
    if args.targets_per_image >= len(classes):
        raise ValueError(f"--targets-per-image is at most {len(classes) - 1}, the classes besides its own")
    for network in networks.values():
        network.check_complete()
    if args.patch_size >= args.image_size and "patch" in args.attacks:
        raise ValueError(f"--patch-size is below --image-size {args.image_size}, got {args.patch_size}")
    return functools.partial(attack_images, args, networks, shown)


def attack_images(
    args: Adversarial, networks: dict[str, Any], shown: Shown, folder: Path, trainer: Any
) -> Numbers:
    """Attack images with each attack, write them as PNG, read them again and judge; draw; return the figures.

    Only images that the network classifies right, and not as the target, count. By attack: success, and
    success_unrounded before it was rounded to 8 bits; median L2, PSNR, queries, gradients and changed
    pixels of the successful ones; overlap, the rank correlation of the change with the saliency map; by
    network and attack: transfer, the share of the successful that fool that one too, and noise, that which
    the same changes at random pixels fool.
    """
    network, size = networks[args.backbone], args.batch_size
    images, truth, right, notes = to_attack(args, shown, network)
    print(*notes, sep="\n", flush=True)
    notes += notes_on_classes(shown, args.backbone)
    if not right:
        return {}, notes
    names = [shown.names[place] for place in right]
    order = [name for one in args.attacks for name in (["plain", "eot"] if one == "eot" else [one])]
    maps = gradient(network, images, truth, batch_size=size)
    right_ones = (args, network, images, truth, folder, trainer)
    metrics: dict[str, list[float]] = {}
    for name in order:
        if name == "patch":
            work = functools.partial(
                compared.attack_with_patch, args, network, images, truth, folder, trainer
            )
        else:
            work = functools.partial(judge, args, name, networks, images, truth, maps, names, folder, trainer)
        numbers = once(folder, trainer, name, work)
        metrics |= {f"{name}/{number}": values for number, values in numbers.items()}
        print(f"{name}: {said(numbers)}", flush=True)
    if "eot" in args.attacks:
        targets = pick_targets(args, aim(args, "eot"), network, images, truth)
        clean = robust_attacks.robustness(network, images, truth, targets, batch_size=args.batch_size)
        metrics["clean/under_transformations"] = [float(clean.mean())]
        chance = metrics["clean/under_transformations"][0]
        print(f"of the images as they are {chance:.3f} fool under transformations", flush=True)
    if len(networks) > 1:
        shares = [
            [metrics.get(f"{name}/transfer/{other}", [torch.nan])[0] for other in networks] for name in order
        ]
        labels = (f"made on {args.backbone}", "fools")
        figure = plots.matrix(torch.tensor(shares), order, list(networks), labels=labels)
        runs.save_figure(folder, "transfer", figure, trainer)
    extra = {"success_curves": functools.partial(compared.success_curves, *right_ones)}
    if args.matrix:
        extra["transfer_matrix"] = functools.partial(
            compared.transfer_matrix, args, args.matrix, networks, shown, folder, trainer
        )
    if args.targets_per_image:
        extra["influence"] = functools.partial(compared.influence_of_targets, *right_ones)
    for name, work in extra.items():
        metrics |= once(folder, trainer, name, work)
    return metrics, notes


def said(numbers: dict[str, list[float]]) -> str:
    """Return the numbers of an attack in README's units: L-infinity x 255, shares with of how many."""
    parts = []
    for name, (value,) in numbers.items():
        if name.endswith("_of"):
            continue
        if name == "median_linf":
            parts.append(f"{name} x 255 {255 * value:.4g}")
        elif f"{name}_of" in numbers:
            parts.append(f"{name} {value:.3f} of {numbers[f'{name}_of'][0]:.0f}")
        else:
            parts.append(f"{name} {value:.4g}")
    return ", ".join(parts)


def judge(
    args: Adversarial,
    name: str,
    networks: dict[str, Any],
    images: torch.Tensor,
    truth: torch.Tensor,
    maps: torch.Tensor,
    names: list[str],
    folder: Path,
    trainer: Any,
) -> dict[str, list[float]]:
    """Attack, write what it made as PNG, read it again, judge it by all networks, draw it; return numbers.

    Args:
        args: The flags.
        name: Of the attack.
        networks: By name; ``args.backbone`` is attacked.
        images: (N, 3, H, W) in [0, 1], classified right.
        truth: Their classes (N,).
        maps: Saliency maps (N, H, W) of the images.
        names: Of the images.
        folder: The run folder.
        trainer: Says whether it is a dry run.
    """
    network, size, classes = networks[args.backbone], args.batch_size, classes_of(networks[args.backbone])
    found, targets = attack(args, name, network, images, truth)
    indices = found.success.nonzero()[:, 0].tolist()
    numbers = share("success", found.success) | share("success_unrounded", found.success_unrounded)
    numbers |= share("success_as_files", torch.zeros_like(found.success))
    if not indices:
        return numbers
    files = [kept_as_png(folder, trainer, name, names[place], found.images[place]) for place in indices]
    again, files_fool = torch.stack(files).to(images.device), torch.zeros_like(found.success)
    predicted = predict(network, again, size)
    files_fool[indices] = attack_results.fooled(
        predicted, truth[indices], attack_results.some(targets, found.success)
    )
    numbers |= share("success_as_files", files_fool)
    for score in ("l2", "linf", "psnr", "l0", "queries", "gradients"):
        numbers[f"median_{score}"] = [float(getattr(found, score)[indices].double().quantile(0.5))]
    change = (found.images - images).abs().amax(1)[indices]
    numbers["overlap_with_saliency"] = [float(rank_correlation(change, maps[indices]).nanmean())]
    if name in ("plain", "eot"):
        lasting = robust_attacks.robustness(network, found.images, truth, targets, batch_size=args.batch_size)
        numbers["under_transformations"] = [float(lasting.mean())]
    noise = scrambled(images[indices], again, args.seed)
    for other_name, other in networks.items():
        for kind, seen in (("transfer", again), ("noise", noise)):
            also = also_fooled(other, images[indices], seen, truth[indices], size)
            if len(also):
                numbers |= share(f"{kind}/{other_name}", also)
    chosen = indices[:12]
    titles = [f"{classes[int(truth[p])]}, now {classes[int(found.after[p])]}" for p in chosen]
    pairs = [(images[p].cpu(), found.images[p].cpu()) for p in chosen]
    title = f"{name} on {args.backbone}: image, changed image, difference x 10"
    runs.save_figure(folder, f"attacked_{name}", network_plots.changes(titles, pairs, title=title), trainer)
    return numbers

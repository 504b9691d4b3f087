"""The figures of the experiment in domain adaptation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from datamodules.domain_pair import DomainPairDataModule
from datamodules.tensors import ImageTensors
from rdfia.adaptation import embeddings
from rdfia.adaptation.config import Args
from rdfia.adaptation.module import AdaptationModule
from rdfia.adaptation.plots import dann_curves, gained_by_class
from rdfia.common import figure_spots, plots
from rdfia.common.figure_spots import TILE
from rdfia.engine import runs
from rdfia.engine.training import back_on_device

Save = Callable[[str, Figure | None], None]
MOST_LAYOUTS = 5  # of a table of more methods: source-only, and what was asked for


def draw(
    args: Args,
    folder: Path,
    trainer: lightning.Trainer,
    modules: dict[str, AdaptationModule],
    pair: DomainPairDataModule,
    pictures: DomainPairDataModule,
) -> None:
    """Draw the figures of the first seed.

    Args:
        args: The flags.
        folder: The run folder.
        trainer: Knows where else figures are shown.
        modules: By row.
        pair: What they take: images, or features of them.
        pictures: The images.
    """

    def save(name: str, figure: Figure | None) -> None:
        runs.save_figure(folder, name, figure, trainer)

    seed, classes = (args.seeds or (args.seed,))[0], pair.classes
    images = {"source": pictures.source.test_data, "target": pictures.target.test_data}
    inputs = {"source": pair.source.test_data, "target": pair.target.test_data}
    grids = {
        name: data[embeddings.sample(len(data), 64, seed).sort().values][0] for name, data in images.items()
    }
    save("domains", plots.image_grids(grids))
    history = runs.read_metrics(folder / f"{args.row()}_seed_{seed}")
    batches = len(history.get("train/class_loss", ([], []))[0])
    save("curves", dann_curves(history, smooth=batches // 50, title=f"{args.row()}, seed {seed}"))
    last = "pseudo-labels" if "pseudo-labels" in modules else args.row()
    if len(modules) > MOST_LAYOUTS:
        modules = {row: module for row, module in modules.items() if row in ("source-only", args.row(), last)}
    for module in modules.values():
        back_on_device(trainer, module)
    layouts(save, args, modules, inputs, images, classes, seed)
    predicted = {
        row: module.outputs(inputs["target"].batches())[1].argmax(1) for row, module in modules.items()
    }
    what_is_said(save, predicted, images["target"], classes, seed)
    if "source-only" in predicted and last in predicted and last != "source-only":
        before, after = predicted["source-only"], predicted[last]
        what_changed(save, before, after, images["target"], classes, seed)


def layouts(
    save: Save,
    args: Args,
    modules: dict[str, AdaptationModule],
    inputs: dict[str, Any],
    images: dict[str, Any],
    classes: Sequence[str],
    seed: int,
) -> None:
    """Draw the features of each row in the plane, by domain and by class."""
    size = 20 if args.fast_dev_run else 500
    order = {name: embeddings.sample(len(data), size, seed) for name, data in inputs.items()}
    chosen = {name: data.part(order[name]) for name, data in inputs.items()}
    labels = torch.cat([data.labels.cpu() for data in chosen.values()])
    domains = torch.cat([torch.full((len(data),), n) for n, data in enumerate(chosen.values())])
    layout = embeddings.umap if args.embedding == "umap" else embeddings.tsne
    panels = {}
    for row, module in modules.items():
        seen = [module.outputs(data.batches(), source=name == "source")[0] for name, data in chosen.items()]
        features = torch.cat(seen)
        if not features.isfinite().all():  # diverged: the table says so
            continue
        points = layout(features, seed=seed)
        panels[f"{row}, by domain"] = (points, domains, list(chosen))
        known = labels >= 0
        title = f"{row}, by class" if known.all() else f"{row}, source by class"
        panels[title] = (points[known], labels[known], list(classes))
    if not panels:
        return
    name = {"tsne": "t-SNE", "umap": "UMAP"}[args.embedding]
    shown = torch.cat([small(images[domain], order[domain]) for domain in chosen])
    title = f"{name} of the features of test images, seed {seed}"
    save(args.embedding, plots.scatter(panels, columns=2, title=title, images=shown))


def small(images: Any, which: torch.Tensor) -> torch.Tensor:
    """Return images (N, 3, S, S) in [0, 1] of those numbers, to be pointed at; at most `TILE` pixels wide."""
    parts = [images[some][0].cpu() for some in which.split(100)]
    side = min(TILE, parts[0].shape[-1])
    sized = [functional.interpolate(part, (side, side), mode="area") for part in parts]
    return torch.cat([part.expand(-1, 3, -1, -1) for part in sized])


def what_is_said(
    save: Save, predicted: dict[str, Tensor], target: ImageTensors, classes: Sequence[str], seed: int
) -> None:
    """Draw what each row says of target images, and where that is known, what it confuses."""
    truth, count = target.labels.cpu(), len(classes)
    for row, labels in predicted.items():
        some = embeddings.sample(len(target), 40, seed)
        captions = [classes[label] for label in labels[some].tolist()]
        title = f"{row}, seed {seed}: what it says of target images"
        save(f"predicted_{row}", plots.captioned(target[some][0], captions, title=title))
        if not target.labelled:
            continue
        counts = torch.bincount(truth * count + labels, minlength=count**2).reshape(count, count)
        right = (labels == truth).double().mean()
        share = f"{row}, seed {seed}: {right:.4f} of {len(truth):,} target test images are right"
        seen = figure_spots.examples(lambda some: target[some][0], truth, labels)
        save(f"confusion_{row}", plots.confusion_matrix(counts, classes, title=share, images=seen))


def what_changed(
    save: Save, before: Tensor, after: Tensor, target: ImageTensors, classes: Sequence[str], seed: int
) -> None:
    """Draw target images that adaptation calls another class than source-only, and what each class gains."""
    truth = target.labels.cpu()
    changed = (before != after).nonzero()[:, 0]
    changed = changed[embeddings.sample(len(changed), 40, seed)].sort().values
    captions = []
    for place in changed.tolist():
        was, now = classes[int(before[place])], classes[int(after[place])]
        mark = ""
        if truth[place] >= 0:
            mark = " +" if after[place] == truth[place] else " -" if before[place] == truth[place] else ""
        captions.append(f"{was} > {now}{mark}")
    share = (before != after).double().mean()
    title = f"seed {seed}: target images that adaptation calls another class ({share:.3f} of all): "
    title += "source-only > adapted"
    if target.labelled:
        title += "; + now right, - no longer"
    if len(changed):
        save("changed", plots.captioned(target[changed][0], captions, columns=8, side=1.5, title=title))
    if (truth >= 0).any():
        save("gained_by_class", gained_by_class(before, after, truth, classes, f"seed {seed}"))

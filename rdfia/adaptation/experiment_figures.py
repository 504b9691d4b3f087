"""The figures of the experiment in domain adaptation."""

from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from matplotlib.figure import Figure

from datamodules.tensors import ImageTensors
from rdfia.adaptation import embeddings
from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.plots import dann_curves
from rdfia.common import plots
from rdfia.engine import runs


def draw(
    folder: Path,
    trainer: lightning.Trainer,
    history: Path,
    modules: dict[str, DANNModule],
    images: dict[str, ImageTensors],
    classes: Sequence[str],
    seed: int,
    size: int,
) -> None:
    """Draw the figures of one seed.

    Args:
        folder: The run folder.
        trainer: Knows where else figures are shown.
        history: Folder of the row that was asked for, with its metrics.csv.
        modules: By row, that row last but for pseudo-labels.
        images: Test images of source and target.
        classes: Their names.
        seed: Of t-SNE.
        size: Images of each domain in t-SNE.
    """

    def save(name: str, figure: Figure) -> None:
        runs.save_figure(folder, name, figure, trainer)

    grids = {name: data[range(min(64, len(data)))][0] for name, data in images.items()}
    save("domains", plots.image_grids(grids))
    save("curves", dann_curves(runs.read_metrics(history), smooth=50))

    order = {name: embeddings.sample(len(data), size, seed) for name, data in images.items()}
    chosen = {name: data.part(order[name]) for name, data in images.items()}
    labels = torch.cat([data.labels.cpu() for data in chosen.values()])
    domains = torch.cat([torch.full((len(data),), n) for n, data in enumerate(chosen.values())])
    panels = {}
    for row, module in modules.items():
        seen = [module.outputs(data.batches(), source=name == "source")[0] for name, data in chosen.items()]
        features = torch.cat(seen)
        if not features.isfinite().all():  # diverged: the table says so
            continue
        points = embeddings.tsne(features, seed=seed)
        panels[f"{row}, by domain"] = (points, domains, list(chosen))
        known = labels >= 0
        title = f"{row}, by class" if known.all() else f"{row}, source by class"
        panels[title] = (points[known], labels[known], list(classes))
    save("tsne", plots.scatter(panels, columns=2, title="t-SNE of the features of test images"))

    target, count = images["target"], len(classes)
    truth = target.labels.cpu()
    predicted = {row: module.outputs(target.batches())[1].argmax(1) for row, module in modules.items()}
    for row, labels in predicted.items():
        some = embeddings.sample(len(target), 40, seed)
        captions = [classes[label] for label in labels[some].tolist()]
        title = f"{row}: what it says of target images"
        save(f"predicted_{row}", plots.captioned(target[some][0], captions, title=title))
        if not target.labelled:
            continue
        counts = torch.bincount(truth * count + labels, minlength=count**2).reshape(count, count)
        share = f"{row}: {(labels == truth).double().mean():.4f} of target test images"
        save(f"confusion_{row}", plots.confusion_matrix(counts, classes, title=share))
    if target.labelled and {"source-only", "dann"} <= set(predicted):
        gained = ((predicted["dann"] == truth) & (predicted["source-only"] != truth)).nonzero()[:40, 0]
        pairs = zip(truth[gained].tolist(), predicted["source-only"][gained].tolist(), strict=True)
        captions = [f"{classes[right]}, not {classes[wrong]}" for right, wrong in pairs]
        title = "target images that only the adapted network gets right: what it says, what source-only says"
        save("gained", plots.captioned(target[gained][0], captions, title=title))

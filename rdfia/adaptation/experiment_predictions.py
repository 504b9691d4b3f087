"""What an adapted network says of each target image, and whether its classes are those of the source."""

import csv
from pathlib import Path

import lightning
import torch

from datamodules.domain_pair import DomainPairDataModule
from datamodules.files import AS_CSV, atomic_file
from rdfia.adaptation.module import AdaptationModule
from rdfia.adaptation.scores import is_unknown
from rdfia.common.environment import is_dry_run
from rdfia.engine.training import back_on_device

SHIFT = 0.2  # of two histograms of classes, in total variation, that is worth a word


def label_shift(module: AdaptationModule, pair: DomainPairDataModule) -> list[str]:
    """Return a warning if the target's classes, as predicted, are not as frequent as the source's.

    Methods that make the domains alike assume that they are.
    """
    count = len(pair.classes)
    predicted = module.outputs(pair.target.train_data.to(module.device).batches())[1].argmax(1)
    told = torch.bincount(predicted, minlength=count) / len(predicted)
    ours = torch.bincount(pair.source.train_data.labels.cpu(), minlength=count)
    ours = ours / ours.sum()
    distance = float((told - ours).abs().sum() / 2)
    if distance <= SHIFT:
        return []
    worst = int((told - ours).abs().argmax())
    return [
        f"label shift: classes predicted of the target differ from the source's by {distance:.2f} (half the "
        f"summed differences of their shares), most in {pair.classes[worst]}, {told[worst]:.2f} against "
        f"{ours[worst]:.2f}; methods that make domains alike assume equal shares"
    ]


def write_predictions(
    folder: Path,
    trainer: lightning.Trainer,
    module: AdaptationModule,
    pair: DomainPairDataModule,
    pictures: DomainPairDataModule,
) -> None:
    """Write ``predictions.csv``: of each target image its file, or number, its part, class, probabilities.

    Of an open set the class is ``unknown`` where the prediction is as uncertain as `open_set_scores` says.
    """
    if is_dry_run(trainer):
        return
    back_on_device(trainer, module)
    # Where all images are tested, the parts are the same: that of the test.
    names = ("train", "val", "test")
    parts = {id(getattr(pictures.target, f"{part}_data")): part for part in names}.values()
    with atomic_file(folder / "predictions.csv") as part_file, part_file.open("w", **AS_CSV) as file:
        writer = csv.writer(file)
        writer.writerow(["image", "part", "class", "probability", *pair.classes])
        for part in parts:
            data = getattr(pair.target, f"{part}_data")
            files = getattr(pictures.target, f"{part}_files", None)
            probabilities = module.outputs(data.to(module.device).batches())[1]
            unknown = is_unknown(probabilities) & pair.open_set
            for number, row in enumerate(probabilities.tolist()):
                best = max(range(len(row)), key=row.__getitem__)
                name = files.paths[number] if files is not None else number
                cells = [f"{one:.6f}" for one in (row[best], *row)]
                writer.writerow([name, part, "unknown" if unknown[number] else pair.classes[best], *cells])

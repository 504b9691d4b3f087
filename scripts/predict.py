"""Let a classifier that one trained name the classes of new pictures, and export it.

Examples:
    python scripts/predict.py runs/svm photo1.jpg holiday/ --csv classes.csv
    python scripts/predict.py runs/fine-tune photo1.jpg --top 3
    python scripts/predict.py runs/fine-tune --export exported/
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rdfia.engine.args import default
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args:
    """Name the classes of pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of train_svm.py, train_fine_tune.py or train_dann.py, or a checkpoint."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional, default("none, to export alone")] = ()
    """Files, or folders of them."""
    csv: Annotated[Path | None, default("only printed")] = None
    """File for a line of each picture: path, class, score, and the score of each class."""
    top: int = 1
    """Number of classes to print for a picture."""
    export: Annotated[Path | None, default("no export")] = None
    """Folder for what runs without rdfia: a torch.export program, weights, names of classes."""
    data_dir: Annotated[Path | None, default("as in training, or $RDFIA_DATA")] = None
    """Data folder with the weights of the network, of which an SVM's checkpoint has the name alone."""
    batch_size: int = 32
    """Images per forward pass."""

    def __post_init__(self) -> None:
        if not self.pictures and self.export is None:
            raise ValueError("name pictures, or --export FOLDER")
        if self.csv is not None and self.csv.is_dir():
            raise ValueError(f"--csv {self.csv} is a folder; name a file, such as {self.csv / 'classes.csv'}")
        if self.top < 1 or self.batch_size < 1:
            raise ValueError(f"--top and --batch-size are at least 1, got {self.top} and {self.batch_size}")


def main(args: Args) -> None:
    """Predict, print, write."""
    from datamodules.files import AS_CSV, atomic_file, say
    from datamodules.listing import find_each, kinds
    from rdfia.trained import load_classifier

    classifier = load_classifier(args.run, args.data_dir)
    if args.export is not None:
        classifier.export(args.export)
        files = "classifier.pt2, weights.safetensors and classifier.json"
        print(f"{files} in {args.export}, checked against the module")
    if not args.pictures:
        return
    pictures, failed = find_each(args.pictures), dict[Path, str]()
    if pictures.others:
        say(f"not read: {kinds(pictures.others)}")
    found = classifier.predict(pictures.pictures, batch_size=args.batch_size, failed=failed)
    if not found:
        raise ValueError(next(iter(failed.values())))
    for one in found:
        order = sorted(range(len(one.scores)), key=lambda index: -one.scores[index])[: args.top]
        said = ", ".join(f"{classifier.classes[index]} {one.scores[index]:.3g}" for index in order)
        print(f"{one.path}: {said}")
    if failed:
        say(f"{len(failed):,} unreadable pictures left out, such as: {next(iter(failed.values()))}")
    plural = {"probability": "probabilities", "vote": "votes among pairs of classes", "margin": "margins"}
    print(f"{len(found):,} pictures; the numbers are {plural[found[0].kind]}")
    if args.csv is not None:
        with atomic_file(args.csv) as part, part.open("w", **AS_CSV) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "class", found[0].kind, *classifier.classes])
            writer.writerows([one.path, one.label, one.score, *one.scores] for one in found)


if __name__ == "__main__":
    run_script(main, Args)

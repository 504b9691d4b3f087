"""The benchmark of transfer learning: extraction, and the sweep over C."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from benchmarks.common import HALF, Args, in_turns, ratio, seconds_of

if TYPE_CHECKING:
    import torch

    from rdfia.transfer.svm_module import FeatureExtractorSVM


def usual_features(root: Path, networks: list[Any], count: int) -> None:
    """Extract features as the practicals do: ImageFolder, PIL, DataLoader, float32, one pass a layer."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    steps = [transforms.Resize((224, 224)), transforms.ToTensor()]
    steps += [transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    photographs = datasets.ImageFolder(root / "15SceneData" / "test", transforms.Compose(steps))
    some = Subset(photographs, list(range(0, len(photographs), -(-len(photographs) // count))))
    for network in networks:
        features = []
        with torch.no_grad():
            for images, _ in DataLoader(some, batch_size=32, num_workers=2):
                features.append(network(images).flatten(1))
        torch.cat(features)


def beside_scikit_learn(
    module: "FeatureExtractorSVM",
    grid: list[float],
    found: "list[torch.Tensor]",
    known: "tuple[torch.Tensor, torch.Tensor]",
    asked: "tuple[torch.Tensor, torch.Tensor]",
) -> "tuple[list[dict[str, Any]], list[torch.Tensor], float]":
    """Compare predictions with scikit-learn's, C by C; return rows, its predictions and its seconds.

    Args:
        module: Is fitted with each C too.
        grid: Of C.
        found: Our predictions for each.
        known: Features and classes to train with.
        asked: Those to test with.
    """
    import torch
    from sklearn.svm import SVC

    (train, labels), (test, true) = known, asked
    rows, references, usual_seconds = [], [], 0.0
    for c, predictions in zip(grid, found, strict=True):
        started = time.perf_counter()
        machine = SVC(kernel="linear", C=c, decision_function_shape="ovo").fit(train, labels)
        reference = torch.from_numpy(machine.predict(test))
        usual_seconds += time.perf_counter() - started
        references.append(reference)
        module.c = c
        module.fit_features(train, labels)
        assert module.classifier is not None
        plain = module.classifier.predict(test)
        differ = (predictions != reference) | (plain != reference)
        # how near to one of its planes an image lies that we and scikit-learn judge differently
        near = [abs(machine.decision_function(test[[n]])).min() for n in differ.nonzero()[:, 0].tolist()]
        rows.append(
            {
                "c": c,
                "accuracy": (predictions == true).double().mean().item(),
                "scikit_learn_accuracy": (reference == true).double().mean().item(),
                "differ_from_scikit_learn": int((predictions != reference).sum()),
                "plain_weights_differ": int((plain != reference).sum()),
                "largest_distance_of_those": float(max(near, default=0.0)),
            }
        )
        print(rows[-1], flush=True)
    return rows, references, usual_seconds


def reloaded(module: "FeatureExtractorSVM", loader: Any) -> "torch.Tensor":
    """Save a module, load it again and return its answers."""
    import lightning
    import torch

    from rdfia.transfer.svm_module import FeatureExtractorSVM

    with tempfile.TemporaryDirectory() as place:
        trainer = lightning.Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if HALF else "32-true",
            logger=False,
            default_root_dir=place,
        )
        trainer.strategy.connect(module)
        trainer.save_checkpoint(Path(place) / "svm.ckpt")
        loaded = FeatureExtractorSVM.load_from_checkpoint(Path(place) / "svm.ckpt", weights_only=True)
        return torch.cat(cast("list[torch.Tensor]", trainer.predict(loaded, loader)))


def measure_svm(args: Args) -> dict[str, Any]:
    """Measure extraction and the sweep over C; compare every prediction."""
    import torch
    import torchvision

    from datamodules.files import data_root
    from datamodules.images import decode_all
    from datamodules.scene15 import Scene15DataModule
    from datamodules.tensors import ImageTensors
    from rdfia.common.backbones import load_backbone
    from rdfia.common.features import compute_features
    from rdfia.transfer.features import open_layers
    from rdfia.transfer.gram import gram_matrix
    from rdfia.transfer.linear_svm import c_grid, fit_svm
    from rdfia.transfer.svm_module import FeatureExtractorSVM

    root, dtype = data_root(args.data_dir), torch.bfloat16 if HALF else torch.float32
    scenes = Scene15DataModule(args.data_dir, train_on_val=True, shuffle=False, batch_size=32)
    scenes.setup()
    backbone = load_backbone("vgg16", data_dir=root)
    usual = torchvision.models.vgg16(weights=None).eval()
    usual.features.load_state_dict(backbone.network.get_submodule("features").state_dict())
    pool5, relu5_3 = usual.features, usual.features[:-1]
    backbone.to(memory_format=torch.channels_last)
    files = [path for path, _ in sorted(scenes.test_files)]
    chosen = files[:: -(-len(files) // args.images)]

    def batches_of(pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        photographs = ImageTensors(pixels, torch.zeros(len(pixels)), channels=3)
        return lambda places: photographs[places][0].contiguous(memory_format=torch.channels_last)

    def ours(layers: list[str]) -> None:
        images = batches_of(decode_all(chosen, mode="L", size=224))
        compute_features(backbone, images, torch.arange(len(chosen)), layers, dtype=dtype)

    def bare() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            for batch in batches:
                pool5(batch)

    batches = torch.rand(len(chosen), 3, 224, 224).contiguous(memory_format=torch.channels_last).split(32)
    work: dict[str, Callable[[], None]] = {
        "our_pool5": lambda: ours(["pool5"]),
        "bare_forward": bare,
        "usual_pool5": lambda: usual_features(root, [pool5], args.images),
        "our_relu5_3_and_pool5": lambda: ours(["relu5_3", "pool5"]),
        "usual_relu5_3_and_pool5": lambda: usual_features(root, [relu5_3, pool5], args.images),
    }

    def each(run: Callable[[], None]) -> float:
        return seconds_of(run) / len(chosen)

    times = in_turns(args.repeats, {name: functools.partial(each, run) for name, run in work.items()})

    pixels = torch.cat([scenes.train_data.images, scenes.test_data.images])
    count = len(pixels)
    layer = open_layers(
        backbone,
        batches_of(pixels),
        count,
        ["pool5"],
        images_hash=scenes.describe()["sha256"],
        memory=1e9,
        cache=args.cache_dir.expanduser(),
        dtype=dtype,
    )["pool5"]
    both = torch.nn.functional.normalize(layer.features(slice(None)).float())
    train, test = both.split([len(scenes.train_data), len(scenes.test_data)])
    labels, true = (part.labels for part in (scenes.train_data, scenes.test_data))
    started = time.perf_counter()
    gram = gram_matrix(both.__getitem__, count)
    inside, across = gram[: len(train), : len(train)], gram[len(train) :, : len(train)]
    gram_seconds = time.perf_counter() - started
    grid = c_grid(inside)
    started = time.perf_counter()
    found = [fit_svm(inside, labels, c).predict(across) for c in grid]
    our_seconds = time.perf_counter() - started
    module = FeatureExtractorSVM(backbone="vgg16", layers=["pool5"], data_dir=str(root))
    rows, references, usual_seconds = beside_scikit_learn(module, grid, found, (train, labels), (test, true))
    module.c = grid[middle := len(grid) // 2]
    module.fit_features(train, labels)
    predictions = reloaded(module, scenes.test_dataloader())
    return {
        "photographs_in_turns": len(chosen),
        **{f"{name}_seconds_an_image": round(median(values), 4) for name, values in times.items()},
        "pool5_times_as_fast": ratio(times["usual_pool5"], times["our_pool5"]),
        "relu5_3_and_pool5_times_as_fast": ratio(
            times["usual_relu5_3_and_pool5"], times["our_relu5_3_and_pool5"]
        ),
        "our_pool5_over_bare_forward": ratio(times["our_pool5"], times["bare_forward"]),
        "gram_seconds": round(gram_seconds, 2),
        "our_sweep_seconds": round(our_seconds, 2),
        "scikit_learn_sweep_seconds": round(usual_seconds, 1),
        "sweep_times_as_fast": round(usual_seconds / our_seconds),
        "sweep_times_as_fast_with_the_gram_matrix": round(usual_seconds / (our_seconds + gram_seconds)),
        "test_images": len(true),
        "sweep": rows,
        "reloaded_checkpoint_c": grid[middle],
        "reloaded_checkpoint_differs": int((predictions != references[middle]).sum()),
    }

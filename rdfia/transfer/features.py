"""Features of frozen CNNs: any layers in one forward pass, pooled or whole, in memory or computed as needed.

A layer whose features fit in memory is computed once and kept, on disk too if asked. Of a wider one (VGG16's
conv1_2 has 3.2 million numbers an image) the features of some images are computed whenever they are needed,
which is all that `rdfia.transfer.gram.gram_matrix` asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdfia.common.backbones import Backbone
from rdfia.common.environment import is_first_process
from rdfia.common.features import cache_path, compute_features, load_cached, save_cached
from rdfia.common.weights import weights_hash
from rdfia.transfer.gram import Features, gram_matrix, signed_root, standardized, unit_length
from rdfia.transfer.linear_svm import Scaling


@dataclass(frozen=True)
class Layer:
    """A layer's features of all images.

    Attributes:
        features: Gives those of some images, by their indices.
        width: Numbers an image.
        bytes_each: Size of one image's features.
        recipe: All that they depend on, in plain types.
        in_memory: They are not computed again when asked for.
    """

    features: Features
    width: int
    bytes_each: int
    recipe: dict[str, Any]
    in_memory: bool


def open_layers(
    backbone: Backbone,
    images: Callable[[Tensor], Tensor],
    count: int,
    names: Sequence[str],
    *,
    images_hash: str,
    memory: float,
    cache: Path | None = None,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    grids: Sequence[int] = (),
    flip: bool = False,
) -> dict[str, Layer]:
    """Return the features of layers: the narrowest, as many as fit together, in memory; the others as needed.

    Those in memory are computed in one pass over the images, or read from ``cache``.

    Args:
        backbone: In eval mode, on its device.
        images: Gives images (B, 3, H, W) in [0, 1] on that device, by their indices.
        count: Number of images.
        names: Of layers.
        images_hash: Of the images, in order.
        memory: Bytes for the features in memory, that of the backbone's device.
        cache: Folder for features that were computed, None for none. A file there serves one recipe:
            weights, layer, pooling, precision, images.
        batch_size: See `compute_features`.
        dtype: See `compute_features`.
        grids: See `layer_features`.
        flip: See `layer_features`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "dtype": dtype, "grids": tuple(grids), "flip": flip}
    everything = torch.arange(count)
    recipe = {
        "version": 2,
        "backbone": backbone.name,
        "weights": weights_hash(backbone),
        "images": images_hash,
        "precision": str(dtype),
        "grids": list(grids),
        "flip": flip,
        "device": backbone.mean.device.type,
        "torch": torch.__version__,
    }
    recipes = {name: recipe | {"layer": name} for name in names}
    one = compute_features(backbone, images, everything[:1], names, **options)
    narrow: list[str] = []
    for name in sorted(names, key=lambda name: one[name].nbytes):
        memory -= one[name].nbytes * count
        if memory >= 0:
            narrow.append(name)
    device = backbone.mean.device  # products are faster there; they fit, as those that are computed do
    cached = {name: load_cached(cache, recipes[name]) for name in narrow}
    held = {name: None if one is None else one.to(device) for name, one in cached.items()}
    if absent := [name for name, values in held.items() if values is None]:
        parts = {name: recipes[name] | {"part": True} for name in absent}  # what an interrupted pass kept
        begun = {name: part for name in absent if (part := load_cached(cache, parts[name])) is not None}

        def keep(done: dict[str, Tensor]) -> None:
            for name, values in done.items():
                save_cached(cache, parts[name], values)

        held |= compute_features(
            backbone, images, everything, absent, progress=True, begun=begun, interrupted=keep, **options
        )
        for name in absent:
            save_cached(cache, recipes[name], held[name])
            if cache is not None and is_first_process():
                cache_path(cache, parts[name]).unlink(missing_ok=True)

    def as_needed(name: str) -> Features:
        return lambda indices: compute_features(
            backbone, images, everything[indices], [name], progress=True, **options
        )[name]

    return {
        name: Layer(
            features=as_needed(name) if (values := held.get(name)) is None else values.__getitem__,
            width=one[name].shape[1],
            bytes_each=one[name].nbytes,
            recipe=recipes[name],
            in_memory=name in held,
        )
        for name in names
    }


def layer_gram(
    layer: Layer, count: int, scaling: Scaling, train: Tensor, *, memory: float, cache: Path | None = None
) -> Tensor:
    """Return the Gram matrix (count, count) of a layer's scaled features; ``cache`` keeps those of wide ones.

    Args:
        layer: From `open_layers`.
        count: Number of images.
        scaling: ``l2`` divides the features of an image by their length, ``power`` takes their signed square
            roots first, ``standard`` gives each feature mean 0 and deviation 1 on the training images,
            ``raw`` leaves them.
        train: Places of the training images.
        memory: Bytes for features at any one time.
        cache: Folder, None for none.
    """
    kind = "raw" if scaling == "l2" else scaling  # lengths are divided out afterwards
    recipe = layer.recipe | {"gram": kind, "train": train.tolist() if scaling == "standard" else None}
    cache = None if layer.in_memory else cache
    gram = load_cached(cache, recipe)
    if gram is None:
        features = layer.features
        if scaling == "power":
            features = lambda indices: signed_root(layer.features(indices).float())  # noqa: E731
        if scaling == "standard":
            features = standardized(layer.features, train)
        # What is scaled is float32, and for a moment there twice; so is what is kept, less its mean.
        fresh = scaling not in ("l2", "raw") or not layer.in_memory
        bytes_each = layer.bytes_each if fresh and scaling in ("l2", "raw") else 8 * layer.width
        fit = max(4, int(memory / bytes_each))
        gram = gram_matrix(features, count, held=fit * 3 // 4, streamed=fit // 4, fresh=fresh)
        save_cached(cache, recipe, gram)
    return unit_length(gram) if scaling in ("l2", "power") else gram

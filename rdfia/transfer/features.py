"""Features of frozen CNNs: any layers in one forward pass, pooled or whole, in memory or computed as needed.

A layer whose features fit in memory is computed once and kept, on disk too if asked. Of a wider one (VGG16's
conv1_2 has 3.2 million numbers an image) the features of some images are computed whenever they are needed,
which is all that `rdfia.transfer.gram.gram_matrix` asks for.
"""

import hashlib
import json
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.nn import functional

from datamodules.files import atomic_file
from rdfia.common.backbones import Backbone
from rdfia.common.environment import is_first_process
from rdfia.common.exact import exact
from rdfia.common.parallel import place
from rdfia.common.progress import progress as shown
from rdfia.common.weights import weights_hash
from rdfia.transfer.gram import Features, gram_matrix, signed_root, standardized, unit_length
from rdfia.transfer.linear_svm import Scaling


def layer_features(
    backbone: Backbone,
    images: Tensor,
    layers: Sequence[str],
    *,
    grids: Sequence[int] = (),
    flip: bool = False,
) -> dict[str, Tensor]:
    """Return each layer's features of images (B, 3, H, W) in [0, 1], (B, d), from one forward pass.

    Args:
        backbone: See `rdfia.common.backbones.load_backbone`.
        images: (B, 3, H, W) in [0, 1].
        layers: Names of layers.
        grids: Average each map over the cells of these grids, side by side: 1 over all of it, 2 over its
            quarters as well. None keeps the whole map, in the number format of the network.
        flip: Average the features of each image and its mirror image.

    Raises:
        ValueError: A grid has no cells.
    """
    if any(cells < 1 for cells in grids):
        raise ValueError(f"grids have at least 1 cell on each side, got {list(grids)}")
    features = {name: _flat(output, grids) for name, output in backbone.tap(images, layers).items()}
    if flip:
        mirrored = backbone.tap(images.flip(-1), layers)
        features = {name: (value + _flat(mirrored[name], grids)) / 2 for name, value in features.items()}
    return features


def _flat(output: Tensor, grids: Sequence[int]) -> Tensor:
    """Return a layer's output as (B, d)."""
    if output.ndim != 4 or not grids:
        return output.flatten(1)
    return torch.cat([functional.adaptive_avg_pool2d(output.float(), cells).flatten(1) for cells in grids], 1)


@torch.no_grad()
@exact()
def compute_features(
    backbone: Backbone,
    images: Callable[[Tensor], Tensor],
    indices: Tensor,
    layers: Sequence[str],
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
    begun: Mapping[str, Tensor] | None = None,
    interrupted: Callable[[dict[str, Tensor]], None] | None = None,
    **pooling: Any,
) -> dict[str, Tensor]:
    """Return each layer's features of some images, (N, d).

    Where there are several processes all must ask for the same: each computes every so many batches, and all
    get all features, those of one process to rounding.

    Args:
        backbone: In eval mode.
        images: Gives images (B, 3, H, W) in [0, 1] on the backbone's device, by their indices.
        indices: Which, (N,).
        layers: Names of layers.
        batch_size: Images in a forward pass.
        dtype: Number format of the forward pass; bfloat16 is about twice as fast.
        progress: Say how far it is.
        begun: Features of the first images, which an interrupted pass gave; for one process.
        interrupted: Called with those, where this pass is interrupted.
        **pooling: ``grids`` and ``flip``, see `layer_features`.
    """
    features: dict[str, Tensor] = {}
    starts = range(0, len(indices), batch_size)
    rank, world_size = place()
    if len(starts) < world_size:  # too few to share
        rank, world_size = 0, 1
    done = 0
    if begun and world_size == 1 and begun.keys() == set(layers):
        done = min(map(len, begun.values())) // batch_size * batch_size
        for name, value in begun.items():
            features[name] = value.new_zeros(len(indices), value.shape[1])
            features[name][:done] = value[:done]
    own = starts[rank::world_size] if world_size > 1 else starts[done // batch_size :]
    try:
        for start in shown(own, "batches of features") if progress and rank == 0 else own:
            chosen = images(indices[start : start + batch_size])
            with torch.autocast(chosen.device.type, dtype, enabled=dtype != torch.float32):
                found = layer_features(backbone, chosen, layers, **pooling)
            for name, value in found.items():
                # Made once at full size: joining the parts in the end would need twice the memory.
                if name not in features:
                    features[name] = value.new_zeros(len(indices), value.shape[1])
                features[name] = features[name].to(value.device)
                features[name][start : start + len(value)] = value
            done = start + len(chosen)
    except BaseException:  # Ctrl-C among others: it goes on its way
        if interrupted and world_size == 1 and done:
            interrupted({name: value[:done] for name, value in features.items()})
        raise
    if world_size > 1:
        for value in features.values():
            distributed.all_reduce(value)  # each row is nought everywhere but where it was computed
    return features


def load_cached(folder: Path | None, recipe: Mapping[str, Any]) -> Tensor | None:
    """Return what `save_cached` wrote for this recipe, mapped into memory; None if there is none.

    None, too, if another process has none, on a node with a disk of its own: all compute together.
    """
    if folder is None:
        return None
    values: Tensor | None = None
    try:
        with safe_open(_cache_path(folder, recipe), framework="pt") as file:
            if json.loads(file.metadata()["recipe"]) == recipe:
                values = file.get_tensor("values")
                if file.metadata().get("crc32") != _checksum(values):
                    values = None
                    warnings.warn(f"{_cache_path(folder, recipe)} is damaged; made again", stacklevel=2)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # absent or damaged: made again
    world_size = place()[1]
    if world_size > 1:
        found: list[bool] = [False] * world_size
        distributed.all_gather_object(found, values is not None)
        return values if all(found) else None
    return values


def save_cached(folder: Path | None, recipe: Mapping[str, Any], values: Tensor | None) -> None:
    """Write values for a recipe of plain types; whole or not at all, whoever else writes the same file.

    A folder that cannot be written, or is full, costs a warning, not the run.
    """
    if folder is None or values is None or not is_first_process():
        return
    try:
        for part in folder.glob(".*.part"):  # which a kill left
            if time.time() - part.stat().st_mtime > 86400:
                part.unlink()
        with atomic_file(_cache_path(folder, recipe)) as part:
            kept = values.cpu().contiguous()
            metadata = {"recipe": json.dumps(recipe), "crc32": _checksum(kept)}
            save_file({"values": kept}, part, metadata=metadata)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"features are not kept in {folder}: {error}", stacklevel=2)


def _checksum(values: Tensor) -> str:
    """Return a checksum of the bytes of a tensor: flipped ones are not to be taken for features."""
    return f"{zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy().data):08x}"


def _cache_path(folder: Path, recipe: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:24]}.safetensors"


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
                _cache_path(cache, parts[name]).unlink(missing_ok=True)

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

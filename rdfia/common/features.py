"""Features of frozen CNNs: any layers in one forward pass, pooled or whole, and kept on disk."""

import hashlib
import json
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional

from datamodules.files import atomic_file
from rdfia.common.backbones import Backbone
from rdfia.common.environment import is_first_process
from rdfia.common.exact import exact
from rdfia.common.parallel import place
from rdfia.common.progress import progress as shown


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


def train_up_to(backbone: Backbone, layer: str, image_size: int) -> list[nn.Parameter]:
    """Make the weights trainable that a layer's output depends on, and no others; return them."""
    weights = list(backbone.requires_grad_(True).parameters())
    output = backbone.tap(torch.zeros(1, 3, image_size, image_size), [layer])[layer].sum()
    gradients = torch.autograd.grad(output, weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)
    return [weight for weight in weights if weight.requires_grad]


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
        with safe_open(cache_path(folder, recipe), framework="pt") as file:
            if json.loads(file.metadata()["recipe"]) == recipe:
                values = file.get_tensor("values")
                if file.metadata().get("crc32") != _checksum(values):
                    values = None
                    warnings.warn(f"{cache_path(folder, recipe)} is damaged; made again", stacklevel=2)
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
        with atomic_file(cache_path(folder, recipe)) as part:
            kept = values.cpu().contiguous()
            metadata = {"recipe": json.dumps(recipe), "crc32": _checksum(kept)}
            save_file({"values": kept}, part, metadata=metadata)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"features are not kept in {folder}: {error}", stacklevel=2)


def _checksum(values: Tensor) -> str:
    """Return a checksum of the bytes of a tensor: flipped ones are not to be taken for features."""
    return f"{zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy().data):08x}"


def cache_path(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """Return the file of a recipe."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:24]}.safetensors"

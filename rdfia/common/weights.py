"""Weights of networks: found, downloaded, fitted to the names of another file."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# What trainers and wrappers put around the weights of a network, or before their names.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("", "module.", "model.", "network.", "backbone.network.", "backbone.", "net.")


def weights_hash(module: nn.Module) -> str:
    """Return a hash of a module's weights and buffers, saved with it or not."""
    digest = hashlib.sha256()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fitting(found: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of a file under a network's own names.

    Names may stand behind a prefix, as in a checkpoint of `FineTuneModule`, whose head is left out.

    Args:
        found: Of the file.
        own: Of the network, its ``state_dict``.
        name: Of the architecture.

    Raises:
        ValueError: None fits, or one is unknown or of another shape; the message says which were found and
            which are wanted.
    """

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

    prefix = max(PREFIXES, key=lambda prefix: len(under(prefix).keys() & own.keys()))
    fit = under(prefix)
    if not fit.keys() & own.keys():
        seen = f"{', '.join(list(found)[:3])} …" if found else "nothing"
        wanted = ", ".join(list(own)[:3])
        raise ValueError(f"these weights do not fit {name}: found {seen}, wanted {wanted} …")
    for key, value in fit.items():
        if key not in own:
            raise ValueError(f"these weights do not fit {name}: it has no {prefix}{key}")
        if own[key].shape != value.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(own[key].shape)}"
            raise ValueError(f"these weights do not fit {name}: {prefix}{key} is {shapes}")
        if not value.isfinite().all():
            raise ValueError(f"these weights are damaged: {prefix}{key} holds values that are not finite")
    return fit


def read_weights(name: str, weights: str | Path, data_dir: str | Path | None) -> dict[str, Tensor]:
    """Return the tensors of ``weights`` in float32."""
    path: Path | None = Path(weights)
    if weights == "imagenet":
        plain = name.replace(":", "_")
        folders = [Path(data_dir) / "weights"] if data_dir else []
        embedded = resources.files("datamodules") / "samples" / "weights"  # data, not code, of that package
        # the convolutions alone, where that is all there is
        files = (f"{plain}.safetensors", f"{plain}_features.safetensors")
        candidates = [folder / file for folder in [*folders, Path(str(embedded))] for file in files]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return download_weights(name, data_dir)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist; give a file, imagenet or random")
    tensors: Any
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        for container in CONTAINERS:  # of a trainer, ours among them
            if isinstance(tensors, Mapping) and isinstance(tensors.get(container), Mapping):
                tensors = tensors[container]
                break
        if not isinstance(tensors, Mapping):
            raise ValueError(f"it holds a {type(tensors).__name__}")
        tensors = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
        return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    except (SafetensorError, OSError, RuntimeError, EOFError, AttributeError, ValueError) as error:
        why = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"{path} holds no readable weights ({why})") from error
    except Exception as error:  # torch.load refuses anything but tensors by an error of its own
        raise ValueError(f"{path} is not a plain file of tensors ({type(error).__name__})") from error


def download_weights(name: str, data_dir: str | Path | None) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from its cache or the network."""
    file = f"weights/{name.replace(':', '_')}.safetensors"
    command = f"python scripts/prepare_data.py weights --architectures {name} --data-dir {data_dir or 'data'}"
    hint = f"weights of {name} are not on this machine; on one with a network run: {command}"
    if name.startswith("timm:"):
        model = name.removeprefix("timm:")
        mend = f"save timm.create_model({model!r}, pretrained=True).state_dict() there as safetensors"
        raise FileNotFoundError(f"no {file} in {data_dir or 'data'}; where there is a network, {mend}")
    if name.endswith("_tfsame"):
        mend = f"torchvision's {name.removesuffix('_tfsame')} can be downloaded, or take --weights random"
        raise FileNotFoundError(f"no {file} in {data_dir or 'data'}; {mend}")
    try:
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        tensors: dict[str, Tensor] = weights.get_state_dict(check_hash=True, progress=False)
    except OSError as error:
        raise ConnectionError(hint) from error
    return tensors

"""Pretrained CNNs by name: weights, preprocessing inside the model, layers by the names people use.

A `Backbone` takes images in [0, 1]; the normalisation that its weights expect is part of it, so saliency,
attacks and class visualisation work in pixel space. Any layer can be tapped, several in one forward pass,
which ends at the deepest of them.

    vgg = load_backbone("vgg16", data_dir="data")
    features = vgg.tap(images, ["pool5"])["pool5"]  # (B, 512, 7, 7)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from rdfia.common.checks import check_images
from rdfia.common.weights import fitting, read_weights

ARCHITECTURES = (
    "vgg16",
    "vgg19",
    "alexnet",
    "squeezenet1_0",
    "squeezenet1_1",
    "resnet18",
    "resnet50",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v2_tfsame",
    "densenet121",
    "inception_v3",
    "efficientnet_b0",
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Done(Exception):  # noqa: N818 - no error: all tapped layers have been seen
    """Ends a forward pass."""


class Backbone(nn.Module):
    """A CNN on images in [0, 1], (B, 3, H, W), with layers by name; frozen and in eval mode when loaded.

    Args:
        network: Takes normalised images.
        name: Of the architecture.
        layers: Module paths in ``network`` by the common names of layers; any module path is a name, too.
        without_weights: Module paths that the weight file left out; layers that need them are refused.
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        layers: dict[str, str],
        without_weights: Sequence[str] = (),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network, self.name, self.layers = network, name, layers
        self.without_weights = tuple(without_weights)
        self._used_once: set[str] = set()
        self._found: dict[str, str] = {}  # paths of layers that were asked for
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, classes)."""
        self.check_complete()
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def check_complete(self) -> None:
        """Raise ValueError if weights are missing, so that there are no logits."""
        if self.without_weights:
            raise ValueError(f"{self.name} has no weights for {', '.join(self.without_weights)}: no logits")

    def usable_layers(self) -> list[str]:
        """Return the common names of the layers whose weights are there, from first to last."""
        order = [path for path, _ in self.network.named_modules()]
        absent = [order.index(path) for path in self.without_weights]
        first_absent = min(absent, default=len(order))
        return [name for name, path in self.layers.items() if order.index(path) < first_absent]

    def find_layer(self, name: str) -> nn.Module:
        """Return a layer by common name or module path.

        Raises:
            ValueError: There is none, or its weights are missing; the message lists those that can be used.
        """
        if name in self._found:  # to list all modules takes milliseconds in each pass
            return self.network.get_submodule(self._found[name])
        path = self.layers.get(name, name)
        modules: dict[str, nn.Module] = dict(self.network.named_modules())
        known = ", ".join(self.usable_layers())
        if not path or path not in modules:
            raise ValueError(f"{self.name} has no layer {name!r}; it has: {known}")
        order = list(modules)
        if any(order.index(path) >= order.index(absent) for absent in self.without_weights):
            raise ValueError(f"{self.name} has no weights for {name}; layers that can be used: {known}")
        self._found[name] = path
        return modules[path]

    def _check_used_once(self, layers: Sequence[str]) -> None:
        """Refuse module paths that a pass uses several times; layers with common names are used once."""
        doubtful = [name for name in layers if name not in self.layers and name not in self._used_once]
        if not doubtful or torch.compiler.is_exporting():
            return
        counts = dict.fromkeys(doubtful, 0)

        def count(name: str, *_: Any) -> None:
            counts[name] += 1

        hooks = [self.find_layer(name).register_forward_hook(partial(count, name)) for name in doubtful]
        side = 299 if self.name == "inception_v3" else 224
        try:
            with torch.no_grad():
                self.network(torch.zeros(1, len(self.mean), side, side, device=self.mean.device))
        finally:
            for hook in hooks:
                hook.remove()
        for name, uses in counts.items():
            if uses > 1:
                block = self.layers.get(name) or name.rpartition(".")[0]
                raise ValueError(f"{self.name} uses {name} {uses} times in a pass; name the block, {block}")
            self._used_once.add(name)

    def tap(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of layers for images (B, 3, H, W) in [0, 1], by name, in one forward pass.

        The pass ends at the deepest layer.

        Raises:
            ValueError: There is no such layer, or it is used several times in a pass, as the ReLU of a
            residual
                block is, so that its output is not one.
        """
        self._check_used_once(layers)
        modules = {name: self.find_layer(name) for name in layers}
        outputs: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            if name in outputs:
                return
            # What comes next may work in place on this output, as torchvision's DenseNet does.
            # (A graph is exported whole: an exception cannot cut it, and it loses what it does not need.)
            last = len(outputs) + 1 == len(modules) and not torch.compiler.is_exporting()
            outputs[name] = output if last else output.clone()
            if last:
                raise _Done

        hooks = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
        try:
            self.network((images - self.mean) / self.std)
        except _Done:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        if unused := [name for name in layers if name not in outputs]:
            raise ValueError(f"{self.name} has {unused[0]} and never runs it; name another layer")
        return {name: outputs[name] for name in layers}


def load_backbone(
    name: str,
    *,
    weights: str | Path = "imagenet",
    data_dir: str | Path | None = None,
    channels: Literal[1, 3] = 3,
) -> Backbone:
    """Return a pretrained CNN by name, frozen and in eval mode.

    Args:
        name: One of `ARCHITECTURES`, or ``timm:<name>`` where timm is installed.
        weights: ``imagenet``, ``random``, or a file (safetensors, or a ``.pth`` of tensors). ``imagenet``
            takes ``<data_dir>/weights/<name>.safetensors`` (or ``<name>_features.safetensors``, convolutions
            alone), else the embedded SqueezeNet 1.1, else what torchvision downloads. A file may hold the
            first layers only; the others are refused then.
        data_dir: Where ``weights/`` lies.
        channels: 1 for grey images (B, 1, H, W): the first convolution's three filters are added up and the
            normalisation averaged. Repeating grey images to three channels is the other way.

    Raises:
        ValueError: Unknown name, or weights that do not fit.
        FileNotFoundError: No such file.
        ConnectionError: The weights would have to be downloaded, and there is no network.
    """
    network: Any = _build(name)
    found = {} if weights == "random" else read_weights(name, weights, data_dir)
    absent: list[str] = []
    if weights != "random":
        own = network.state_dict()
        found = fitting(found, own, name)
        missing = {key.rpartition(".")[0] for key in own.keys() - found.keys() if "num_batches" not in key}
        absent = [path for path, _ in network.named_modules() if path in missing]
        network.load_state_dict(found, strict=False)
        for path in absent:  # the same at each load, so that a hash tells weights apart
            for weight in network.get_submodule(path).parameters(recurse=False):
                nn.init.zeros_(weight)
    if name in ("googlenet", "inception_v3"):  # the auxiliary heads serve training only
        network.aux_logits = False
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, head):
                setattr(network, head, None)
        absent = [path for path in absent if not path.lower().startswith("aux")]
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish):
            module.inplace = False  # else the layer before it could not be tapped
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if name.startswith("timm:"):
        mean, std = network.default_cfg["mean"], network.default_cfg["std"]
    if channels == 1:
        _add_up_colours(name, network)
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    backbone = Backbone(
        network, name=name, layers=_layer_names(name, network), without_weights=absent, mean=mean, std=std
    )
    return backbone.eval().requires_grad_(False)


def _build(name: str) -> nn.Module:
    """Return an architecture with random weights."""
    if name.startswith("timm:"):
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"{name} needs timm; run: pip install timm") from error
        if name.removeprefix("timm:") not in timm.list_models():
            raise ValueError(f"timm has no model {name.removeprefix('timm:')!r}")
        network: nn.Module = timm.create_model(name.removeprefix("timm:"), pretrained=False)
        return network
    if name not in ARCHITECTURES:
        raise ValueError(f"no backbone {name!r}; there are {', '.join(ARCHITECTURES)} and timm:<name>")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their weights expect another normalisation, to which the network converts the usual one.
        options = {"transform_input": True, "init_weights": False, "aux_logits": True}
    network = torchvision.models.get_model(name.removesuffix("_tfsame"), weights=None, **options)
    if name.endswith("_tfsame"):
        _pad_as_tensorflow(network)
    return network


def _add_up_colours(name: str, network: nn.Module) -> None:
    """Make the first convolution take one channel: what it gives for three equal channels."""
    if name in ("googlenet", "inception_v3"):
        raise ValueError(f"{name} transforms its three channels inside; repeat grey images instead")
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.sum(1, keepdim=True))
    first.in_channels = 1


def _pad_as_tensorflow(network: nn.Module) -> None:
    """Give stride-2 convolutions TensorFlow's "SAME" padding: nothing before, one pixel after."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2) and module.padding == (1, 1):
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, inputs: (nn.functional.pad(inputs[0], (0, 1, 0, 1)),))


def _layer_names(name: str, network: nn.Module) -> dict[str, str]:
    """Return module paths by the common names of layers, from first to last.

    VGG and AlexNet: ``conv1_1 … pool5, fc6, relu6, fc7, relu7, fc8``; SqueezeNet: ``conv1, fire2 …``; the
    others: the names of their blocks, ``block0 …`` where these are only numbered.
    """
    if name.startswith(("vgg", "alexnet")):
        return _convolutions_and_heads(name, network)
    names = {}
    fire = 2
    for child, module in network.named_children():
        inside = list(module.named_children()) if child == "features" else []
        for number, part in inside:
            path = f"{child}.{number}"
            if name.startswith("squeezenet") and type(part).__name__ == "Fire":
                names[f"fire{fire}"] = path
                fire += 1
            elif name.startswith("squeezenet"):
                kind = {"Conv2d": "conv", "ReLU": "relu", "MaxPool2d": "pool"}[type(part).__name__]
                names[f"{kind}{1 if fire == 2 else fire - 1}"] = path
            else:
                names[f"block{number}" if number.isdigit() else number] = path
        if not inside:
            names[child] = child
    if name.startswith("squeezenet"):
        names |= {"conv10": "classifier.1", "relu10": "classifier.2"}
        names["classifier"] = names.pop("classifier")
    return names


def _convolutions_and_heads(name: str, network: nn.Module) -> dict[str, str]:
    """Name the layers of VGG (blocks of convolutions) and AlexNet (one convolution each)."""
    names = {}
    block, number = 1, 0
    for index, module in network.features.named_children():  # type: ignore[union-attr]
        if isinstance(module, nn.Conv2d):
            number += 1
        suffix = f"{block}_{number}" if name.startswith("vgg") else f"{number}"
        if isinstance(module, nn.MaxPool2d):
            names[f"pool{block if name.startswith('vgg') else number}"] = f"features.{index}"
            block, number = block + 1, 0 if name.startswith("vgg") else number
        else:
            kind = "conv" if isinstance(module, nn.Conv2d) else "relu"
            names[f"{kind}{suffix}"] = f"features.{index}"
    layer = 6
    for index, module in network.classifier.named_children():  # type: ignore[union-attr]
        if isinstance(module, nn.Linear):
            names[f"fc{layer}"] = f"classifier.{index}"
            layer += 1
        elif isinstance(module, nn.ReLU):
            names[f"relu{layer - 1}"] = f"classifier.{index}"
    return names


def imagenet_classes() -> list[str]:
    """Return the names of ImageNet's 1000 classes, in the order of the logits."""
    names: list[str] = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    return names


@torch.no_grad()
def classify(backbone: Backbone, images: Tensor, count: int = 5) -> tuple[Tensor, Tensor]:
    """Return the most probable classes of images (B, 3, H, W) in [0, 1].

    Returns:
        Probabilities (B, count), falling, and class indices (B, count).
    """
    check_images(images)
    probabilities, indices = backbone(images).float().softmax(1).topk(count)
    return probabilities, indices


@dataclass(frozen=True)
class LayerRow:
    """One line of `describe`: name, kind, output shape of one image, parameters, multiply-adds."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@torch.no_grad()
def describe(backbone: Backbone, image_size: int = 224) -> list[LayerRow]:
    """Return the layers that compute or reshape, in the order in which an image passes them."""
    rows: list[LayerRow] = []
    common = {path: name for name, path in backbone.layers.items()}

    def note(path: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        work = 0
        if isinstance(module, nn.Conv2d | nn.Linear):
            # each weight is used once for each place of the output
            work = module.weight.numel() * output[0].numel() // module.weight.shape[0]
        rows.append(
            LayerRow(common.get(path, path), type(module).__name__, tuple(output.shape[1:]), parameters, work)
        )

    hooks = [
        module.register_forward_hook(partial(note, path))
        for path, module in backbone.network.named_modules()
        if not list(module.children())
    ]
    try:
        image = torch.zeros(1, len(backbone.mean), image_size, image_size, device=backbone.mean.device)
        backbone.network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return rows

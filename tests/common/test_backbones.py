import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from rdfia.common.backbones import ARCHITECTURES, Backbone, describe, load_backbone
from rdfia.common.weights import weights_hash
from rdfia.transfer.fine_tune import FineTuneModule

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def vgg16_by_hand(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Walk VGG16 as Simonyan & Zisserman's table D lists it, layer by layer."""
    state, outputs, index = network.state_dict(), {}, 0
    x = normalised(images)
    for block, convolutions in enumerate([2, 2, 3, 3, 3], 1):
        for number in range(1, convolutions + 1):
            x = functional.conv2d(
                x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1
            )
            outputs[f"conv{block}_{number}"] = x
            x = x.clamp(min=0)
            outputs[f"relu{block}_{number}"] = x
            index += 2
        x = functional.max_pool2d(x, 2)
        outputs[f"pool{block}"] = x
        index += 1
    x = functional.adaptive_avg_pool2d(x, 7).flatten(1)
    for layer, index in ((6, 0), (7, 3), (8, 6)):
        x = functional.linear(x, state[f"classifier.{index}.weight"], state[f"classifier.{index}.bias"])
        outputs[f"fc{layer}"] = x
        if layer < 8:
            x = x.clamp(min=0)
            outputs[f"relu{layer}"] = x
    return outputs


@pytest.fixture(scope="module")
def vgg16() -> Backbone:
    torch.manual_seed(0)
    return load_backbone("vgg16", weights="random")


@torch.no_grad()
def test_each_name_of_vgg16_is_the_layer_people_mean(vgg16):
    expected = vgg16_by_hand(vgg16.network, IMAGES)
    assert list(vgg16.layers) == list(expected)
    found = vgg16.tap(IMAGES, list(expected))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    torch.testing.assert_close(vgg16(IMAGES), expected["fc8"])


@torch.no_grad()
def test_each_name_of_alexnet_is_the_layer_people_mean():
    torch.manual_seed(0)
    alexnet = load_backbone("alexnet", weights="random")
    state, x, expected = alexnet.network.state_dict(), normalised(IMAGES), {}
    for number, (index, stride, padding, pool) in enumerate(
        [(0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False), (10, 1, 1, True)], 1
    ):
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x = functional.conv2d(x, weight, bias, stride, padding)
        expected[f"conv{number}"] = x
        x = x.clamp(min=0)
        expected[f"relu{number}"] = x
        if pool:
            x = functional.max_pool2d(x, 3, 2)
            expected[f"pool{number}"] = x
    found = alexnet.tap(IMAGES, list(expected))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert [name for name in alexnet.layers if name not in expected] == [
        "fc6",
        "relu6",
        "fc7",
        "relu7",
        "fc8",
    ]


@torch.no_grad()
def test_squeezenet_by_hand():
    squeezenet = load_backbone("squeezenet1_1")
    parts = squeezenet.network.features
    x = functional.conv2d(normalised(IMAGES), parts[0].weight, parts[0].bias, stride=2)
    expected = {"conv1": x, "relu1": x.clamp(min=0)}
    x = functional.max_pool2d(x.clamp(min=0), 3, 2, ceil_mode=True)
    expected["pool1"] = x
    for number, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        fire = parts[index]
        squeezed = functional.conv2d(x, fire.squeeze.weight, fire.squeeze.bias).clamp(min=0)
        one = functional.conv2d(squeezed, fire.expand1x1.weight, fire.expand1x1.bias).clamp(min=0)
        three = functional.conv2d(squeezed, fire.expand3x3.weight, fire.expand3x3.bias, padding=1).clamp(
            min=0
        )
        x = torch.cat([one, three], 1)
        expected[f"fire{number}"] = x
        if number in (3, 5):
            x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            expected[f"pool{number}"] = x
    head = squeezenet.network.classifier[1]
    expected["conv10"] = functional.conv2d(x, head.weight, head.bias)
    expected["relu10"] = expected["conv10"].clamp(min=0)
    found = squeezenet.tap(IMAGES, list(expected))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    torch.testing.assert_close(squeezenet(IMAGES), expected["relu10"].mean((2, 3)))


@torch.no_grad()
def test_resnet_and_densenet_blocks_by_hand():
    for name in ("resnet18", "densenet121"):
        backbone = load_backbone(name, weights="random")
        network, x = backbone.network, normalised(IMAGES)
        chain = network.named_children() if name == "resnet18" else network.features.named_children()
        expected = {}
        for part, module in chain:
            x = module(x.flatten(1) if part == "fc" else x)
            expected[part] = x.clone()  # before anything works on it in place
        found = backbone.tap(IMAGES, [*expected, "classifier"] if name == "densenet121" else list(expected))
        for part, value in expected.items():
            torch.testing.assert_close(found[part], value, msg=part)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [name for name in ARCHITECTURES if not name.startswith(("vgg", "inception"))]
)
def test_a_backbone_is_torchvisions_network_behind_its_normalisation(name):
    torch.manual_seed(0)
    backbone = load_backbone(name, weights="random")
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    if not name.endswith("_tfsame"):
        options = {}
        if name == "googlenet":
            options = {"transform_input": True, "init_weights": False, "aux_logits": False}
        reference = torchvision.models.get_model(name, weights=None, **options)
        reference.load_state_dict(
            {key: value for key, value in backbone.network.state_dict().items() if not key.startswith("aux")}
        )
        torch.testing.assert_close(backbone(IMAGES), reference.eval()(normalised(IMAGES)))
    middle = list(backbone.layers)[len(backbone.layers) // 2]
    assert backbone.tap(IMAGES, [middle])[middle].shape[0] == 2


@torch.no_grad()
def test_tensorflows_padding_adds_nothing_before_and_one_pixel_after():
    backbone = load_backbone("mobilenet_v2_tfsame", weights="random")
    first = backbone.network.features[0][0]
    padded = functional.pad(normalised(IMAGES), (0, 1, 0, 1))
    expected = functional.conv2d(padded, first.weight, stride=2)
    torch.testing.assert_close(backbone.tap(IMAGES, ["features.0.0"])["features.0.0"], expected)
    strided = [m for m in backbone.network.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 5
    assert all(module.padding == (0, 0) for module in strided)


def test_vgg16_has_the_parameters_that_reports_get_wrong(vgg16):
    rows = describe(vgg16)
    by_kind = {kind: sum(row.parameters for row in rows if row.kind == kind) for kind in ("Linear", "Conv2d")}
    assert by_kind == {"Linear": 123_642_856, "Conv2d": 14_714_688}
    assert sum(row.parameters for row in rows) == 138_357_544
    shapes = {row.name: row.shape for row in rows}
    assert shapes["conv1_2"] == (64, 224, 224)
    assert shapes["pool5"] == (512, 7, 7)
    assert shapes["relu7"] == (4096,)
    # by hand: 3x3 kernels on 3 channels for each of 224 x 224 x 64 numbers
    assert next(row for row in rows if row.name == "conv1_1").multiply_adds == 27 * 224 * 224 * 64


def test_a_layer_that_never_runs_is_named(vgg16):
    vgg16.network.unused = torch.nn.Identity()
    try:
        with pytest.raises(ValueError, match="vgg16 has unused and never runs it; name another layer"):
            vgg16.tap(torch.zeros(1, 3, 64, 64), ["pool5", "unused"])
    finally:
        del vgg16.network.unused


def test_tapping_ends_at_the_deepest_layer_and_leaves_no_trace(vgg16):
    passed = []
    hook = vgg16.network.features[10].register_forward_hook(lambda *_: passed.append(1))
    vgg16.tap(IMAGES, ["pool1", "conv1_1"])
    assert not passed
    vgg16.tap(IMAGES, ["conv4_1"])
    assert passed
    hook.remove()
    assert not any(module._forward_hooks for module in vgg16.network.modules())


@torch.no_grad()
@pytest.mark.slow
def test_a_trunk_without_its_head_loads_and_says_so(vgg16, tmp_path):
    trunk = {k: v.half() for k, v in vgg16.network.state_dict().items() if k.startswith("features")}
    (tmp_path / "weights").mkdir()
    save_file(trunk, tmp_path / "weights" / "vgg16.safetensors")
    loaded = load_backbone("vgg16", data_dir=tmp_path)
    torch.testing.assert_close(
        loaded.tap(IMAGES, ["pool5"])["pool5"], vgg16.tap(IMAGES, ["pool5"])["pool5"], rtol=0.02, atol=0.02
    )
    assert loaded.usable_layers()[-1] == "pool5"
    assert weights_hash(load_backbone("vgg16", data_dir=tmp_path)) == weights_hash(loaded)
    with pytest.raises(
        ValueError, match=r"vgg16 has no weights for relu7; layers that can be used: .*pool5$"
    ):
        loaded.tap(IMAGES, ["relu7"])
    with pytest.raises(ValueError, match="no logits"):
        loaded(IMAGES)


def test_weights_of_a_pth_file_load_and_nothing_is_unpickled(tmp_path):
    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    loaded = load_backbone("squeezenet1_1", weights=tmp_path / "own.pth")
    assert torch.equal(loaded.network.classifier[1].weight, network.classifier[1].weight)
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole.pth is not a plain file of tensors"):
        load_backbone("squeezenet1_1", weights=tmp_path / "whole.pth")


def test_bad_names_and_files_are_named(tmp_path, vgg16, monkeypatch):
    with pytest.raises(ValueError, match=r"no backbone 'vgg61'; there are vgg16, vgg19"):
        load_backbone("vgg61")
    with pytest.raises(ValueError, match=r"vgg16 has no layer 'fc9'; it has: conv1_1, .* fc8$"):
        vgg16.tap(IMAGES, ["fc9"])
    with pytest.raises(FileNotFoundError, match=r"absent.pth do not exist"):
        load_backbone("squeezenet1_1", weights=tmp_path / "absent.pth")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match=r"text.safetensors holds no readable weights"):
        load_backbone("squeezenet1_1", weights=tmp_path / "text.safetensors")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"do not fit squeezenet1_1: features.0.weight"):
        load_backbone("squeezenet1_1", weights=tmp_path / "other.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"prepare_data.py weights --architectures resnet50"):
        load_backbone("resnet50")


@torch.no_grad()
def test_a_network_of_timm_behind_its_own_normalisation():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = load_backbone("timm:tf_efficientnet_lite0", weights="random")
    network, config = backbone.network, timm.get_pretrained_cfg("tf_efficientnet_lite0")
    mean, std = (torch.tensor(value)[:, None, None] for value in (config.mean, config.std))
    torch.testing.assert_close(backbone(IMAGES), network((IMAGES - mean) / std))
    found = backbone.tap(IMAGES, ["blocks.5", "blocks", "bn2"])
    x = network.bn1(network.conv_stem((IMAGES - mean) / std))
    torch.testing.assert_close(found["blocks.5"], network.blocks[:6](x))
    torch.testing.assert_close(found["bn2"], network.bn2(network.conv_head(network.blocks(x))))
    with pytest.raises(ValueError, match="timm has no model 'nothing'"):
        load_backbone("timm:nothing", weights="random")


def test_a_module_that_a_pass_uses_twice_is_refused_with_the_name_of_its_block():
    network = load_backbone("resnet18", weights="random")
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"uses layer4.1.relu 2 times in a pass; name the block, layer4.1"):
        network.tap(images, ["layer4.1.relu"])
    found = network.tap(images, ["layer4.1", "relu"])
    torch.testing.assert_close(found["layer4.1"], network.tap(images, ["layer4"])["layer4"])


def test_a_file_without_its_weights_is_no_random_network(tmp_path):
    for number, content in enumerate(({}, {"state_dict": {}}, {"epoch": 3}, {"a": torch.zeros(2)}, [1, 2])):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        message = r"do not fit squeezenet1_1: found .*, wanted features.0.weight|holds a list"
        with pytest.raises(ValueError, match=message) as error:
            load_backbone("squeezenet1_1", weights=path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"found a …, wanted features.0.weight, features.0.bias, "):
        load_backbone("squeezenet1_1", weights=tmp_path / "3.pth")


@pytest.mark.parametrize(
    ("container", "prefix"),
    [("state_dict", ""), ("model", "module."), (None, "network."), ("model_state_dict", "model.")],
)
def test_weights_of_a_checkpoint_are_found_under_its_names(tmp_path, container, prefix):
    network = torchvision.models.squeezenet1_1()
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "own.pth")
    loaded = load_backbone("squeezenet1_1", weights=tmp_path / "own.pth")
    assert torch.equal(loaded.network.classifier[1].weight, network.classifier[1].weight)


def test_weights_of_our_own_fine_tuning_load(tmp_path):
    module = FineTuneModule(weights="random", classes=3)
    saved = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "epoch": 1}
    torch.save(saved, tmp_path / "best.ckpt")  # as Lightning does
    loaded = load_backbone("squeezenet1_1", weights=tmp_path / "best.ckpt")
    first = loaded.network.features[0].weight
    assert torch.equal(first, module.backbone.network.features[0].weight)


def test_weights_of_another_shape_and_damaged_ones_are_named(tmp_path):
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state | {"features.0.weight": torch.zeros(1, 2)}, tmp_path / "shape.pth")
    with pytest.raises(ValueError, match=r"features.0.weight is \(1, 2\), not \(64, 3, 3, 3\)"):
        load_backbone("squeezenet1_1", weights=tmp_path / "shape.pth")
    torch.save(state | {"features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"features.0.bias holds values that are not finite"):
        load_backbone("squeezenet1_1", weights=tmp_path / "nan.pth")

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from rdfia.common.backbones import load_backbone
from rdfia.common.features import compute_features, layer_features, load_cached, save_cached
from rdfia.common.weights import weights_hash
from rdfia.transfer.features import layer_gram, open_layers

IMAGES = torch.rand(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
HASH = "of these images"


@pytest.fixture(scope="module")
def squeezenet():
    return load_backbone("squeezenet1_1")


def images(places):
    return IMAGES[places]


@torch.no_grad()
def test_features_are_the_maps_or_means_over_cells(squeezenet):
    maps = squeezenet.tap(IMAGES, ["fire9"])["fire9"]
    assert torch.equal(layer_features(squeezenet, IMAGES, ["fire9"])["fire9"], maps.flatten(1))
    found = layer_features(squeezenet, IMAGES, ["fire9"], grids=(1, 3))["fire9"]
    assert maps.shape[2:] == (3, 3)  # so that the cells of 3 x 3 are single places
    torch.testing.assert_close(found, torch.cat([maps.mean((2, 3)), maps.flatten(1)], 1))


@torch.no_grad()
def test_flipped_features_do_not_know_left_from_right(squeezenet):
    once = layer_features(squeezenet, IMAGES, ["fire4", "fire9"], grids=(2,), flip=True)
    mirrored = layer_features(squeezenet, IMAGES.flip(-1), ["fire4", "fire9"], grids=(2,), flip=True)
    for name in once:
        torch.testing.assert_close(once[name], mirrored[name])
    plain = functional.adaptive_avg_pool2d(squeezenet.tap(IMAGES, ["fire9"])["fire9"], 2).flatten(1)
    assert not torch.allclose(once["fire9"], plain)


def test_batches_change_nothing_and_bfloat16_little(squeezenet):
    exact = compute_features(squeezenet, images, torch.arange(9), ["fire9"])["fire9"]
    batched = compute_features(squeezenet, images, torch.arange(9), ["fire9"], batch_size=4)["fire9"]
    torch.testing.assert_close(batched, exact, rtol=1e-4, atol=1e-4)
    rounded = compute_features(squeezenet, images, torch.arange(9), ["fire9"], dtype=torch.bfloat16)["fire9"]
    assert rounded.dtype == torch.bfloat16
    assert functional.cosine_similarity(rounded.float(), exact).min() > 0.999
    assert not exact.requires_grad


def test_narrow_layers_are_held_and_wide_ones_computed_as_needed(squeezenet):
    settings = {"images_hash": HASH, "batch_size": 4}
    layers = open_layers(squeezenet, images, 9, ["fire4", "fire9"], memory=9 * 4 * 512 * 3 * 3, **settings)
    assert {name: (layer.width, layer.in_memory) for name, layer in layers.items()} == {
        "fire4": (256 * 7 * 7, False),
        "fire9": (512 * 3 * 3, True),
    }
    for name, layer in layers.items():
        expected = squeezenet.tap(IMAGES, [name])[name].flatten(1)
        torch.testing.assert_close(layer.features(torch.tensor([7, 2])), expected[[7, 2]])
        torch.testing.assert_close(layer.features(slice(2, 5)), expected[2:5])
        gram = layer_gram(layer, 9, "raw", torch.arange(5), memory=4 * layer.bytes_each)
        torch.testing.assert_close(gram, (expected.double() @ expected.double().T), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("scaling", ["l2", "power", "standard"])
def test_scalings_of_a_streamed_layer(squeezenet, scaling):
    layer = open_layers(squeezenet, images, 9, ["fire4"], images_hash=HASH, memory=0)["fire4"]
    found = layer_gram(layer, 9, scaling, torch.arange(5), memory=5 * layer.bytes_each)
    features = squeezenet.tap(IMAGES, ["fire4"])["fire4"].flatten(1).double()
    if scaling == "standard":
        std = features[:5].std(0, correction=0)
        features = ((features - features[:5].mean(0)) / std)[:, std > 1e-5]
    else:
        features = functional.normalize(features.sqrt() if scaling == "power" else features)
    torch.testing.assert_close(found, features @ features.T, rtol=1e-3, atol=1e-4)


def test_a_cache_serves_one_recipe(squeezenet, tmp_path, monkeypatch):
    passes = []
    tap = type(squeezenet).tap

    def note(self, chosen, layers):
        passes.append(len(chosen))
        return tap(self, chosen, layers)

    monkeypatch.setattr(type(squeezenet), "tap", note)

    def open_one(backbone=squeezenet, layer="fire9", images_hash=HASH, **options):
        settings = {"images_hash": images_hash, "memory": 1e9, "cache": tmp_path, **options}
        passes.clear()
        layer = open_layers(backbone, images, 9, [layer], **settings)[layer]
        return layer.features(slice(None)).clone(), sum(passes) - 1  # one for the width

    first, computed = open_one()
    assert computed == 9
    again, computed = open_one()
    assert (computed, torch.equal(first, again)) == (0, True)
    other = load_backbone("squeezenet1_1")
    other.network.features[0].bias[0] += 1e-3
    assert weights_hash(other) != weights_hash(squeezenet)
    changes = [
        {"backbone": other},
        {"layer": "fire8"},
        {"images_hash": "of others"},
        {"grids": (1,)},
        {"flip": True},
        {"dtype": torch.bfloat16},
    ]
    for change in changes:
        assert open_one(**change)[1] == (18 + 1 if "flip" in change else 9), change
    assert len(list(tmp_path.iterdir())) == 1 + len(changes)


def test_a_damaged_cache_is_made_anew(tmp_path):
    recipe, values = {"layer": "fire9"}, torch.arange(1000.0)
    save_cached(tmp_path, recipe, values)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-100]):
        path.write_bytes(damaged)
        assert load_cached(tmp_path, recipe) is None
    flipped = bytearray(whole)
    flipped[-2000] ^= 4
    path.write_bytes(bytes(flipped))
    with pytest.warns(UserWarning, match="is damaged; made again"):
        assert load_cached(tmp_path, recipe) is None
    save_cached(tmp_path, recipe, values)
    assert torch.equal(load_cached(tmp_path, recipe), values)
    assert load_cached(tmp_path, {"layer": "fire8"}) is None
    path.rename(path.with_name("0" * 24 + path.suffix))
    assert load_cached(tmp_path, recipe) is None
    assert load_cached(None, recipe) is None


WRITER = """
import pathlib, sys, torch
from rdfia.common.features import save_cached
for _ in range(30):
    save_cached(pathlib.Path(sys.argv[1]), {"same": "recipe"}, torch.full((50_000,), float(sys.argv[2])))
"""


@pytest.mark.slow
def test_writers_of_the_same_file_do_not_meet(tmp_path):
    folder = tmp_path / "features"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, folder, str(number)]) for number in range(2)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        values = load_cached(folder, {"same": "recipe"})
        if values is not None:
            seen += 1
            assert len(values.unique()) == 1
    assert seen
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(list(folder.iterdir())) == 1  # no part is left


def test_an_interrupted_extraction_keeps_what_it_has(tmp_path, squeezenet):
    pixels, asked = torch.rand(11, 3, 64, 64), []

    def images(places):
        asked.extend(places.tolist())
        if len(asked) > 7 and not whole:
            raise KeyboardInterrupt
        return pixels[places]

    def features() -> torch.Tensor:
        layers = open_layers(
            squeezenet, images, 11, ["fire9"], images_hash="these", memory=1e9, cache=tmp_path, batch_size=2
        )
        return layers["fire9"].features(torch.arange(11))

    whole = False
    with pytest.raises(KeyboardInterrupt):
        features()
    asked.clear()
    whole = True
    found = features()
    assert asked == [0, *range(6, 11)]  # one for the width, then what was lacking
    assert len(list(tmp_path.iterdir())) == 1  # no part is left
    expected = compute_features(squeezenet, pixels.__getitem__, torch.arange(11), ["fire9"], batch_size=2)
    torch.testing.assert_close(found, expected["fire9"])

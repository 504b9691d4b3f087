"""Scores in the features of any network: streaming, named after the network, FID as others compute it."""

import hashlib

import pytest
import torch
from torch import nn

from rdfia.generation import feature_scores, sampled_features
from rdfia.generation.distances import frechet_distance
from rdfia.generation.feature_scores import FeatureScores, make_scores
from rdfia.generation.sampled_features import SampledFeatures


class Plain(SampledFeatures):
    """Scores that are given features."""

    update = SampledFeatures.add
    compute = SampledFeatures.distances


def test_memory_does_not_grow_and_all_images_count(monkeypatch):
    monkeypatch.setattr(sampled_features, "KEPT", 100)
    real, generated = torch.randn(730, 6), 1 + torch.randn(410, 6)
    scores = Plain(6)
    for side, features in (("real", real), ("generated", generated)):
        for part in features.split(64):
            scores.add(part, real=side == "real")
    assert [len(scores.kept(side)) for side in ("real", "generated")] == [100, 100]
    # No view that would hold a whole batch.
    kept = scores.kept("real")
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()
    found = scores.distances()
    assert (found["n_real"], found["n_generated"]) == (730, 410)
    assert found["fid"].item() == pytest.approx(frechet_distance(real, generated).item(), rel=1e-9)
    some = Plain(6)
    for side in ("real", "generated"):
        some.add(scores.kept(side), real=side == "real")
    for name in ("kid", "precision", "recall", "density", "coverage"):
        assert found[name] == some.distances()[name]


def test_what_is_kept_of_images_in_order_is_a_fair_sample(monkeypatch):
    monkeypatch.setattr(sampled_features, "KEPT", 500)
    scores = Plain(1)
    for part in torch.arange(5000.0)[:, None].split(64):  # as a folder comes, class by class
        chosen = scores.add(part, real=True)
        scores.keep("generated_kept", part, chosen)  # labels beside them
    kept = scores.kept("real")
    assert len(kept.unique()) == 500
    assert torch.equal(kept, scores.kept("generated"))
    shares = torch.histc(kept, bins=10, min=0, max=5000) / 500
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.05)
    scores.reset()
    assert torch.equal(scores.add(torch.zeros(3, 1), real=True).places, torch.arange(3))


def test_with_all_kept_the_distance_is_that_of_the_features_to_the_last_digit():
    real, generated = torch.randn(70, 6), 1 + torch.randn(50, 6)
    scores = Plain(6)
    scores.add(real, real=True)
    scores.add(generated, real=False)
    assert scores.distances()["fid"] == frechet_distance(real, generated)


def test_few_images_have_no_distances():
    scores = Plain(3)
    scores.add(torch.randn(5, 3), real=True)
    scores.add(torch.randn(9, 3), real=False)
    found = scores.distances()
    assert all(torch.isnan(found[name]) for name in ("fid", "kid", "precision", "density"))
    assert found["n_real"] == 5


def test_moments_stay_exact_in_a_module_of_half_precision():
    holder = nn.Sequential(FeatureScores())
    holder.to(torch.bfloat16)
    assert holder[0].real_total.dtype == torch.float64
    assert all(weight.dtype == torch.float32 for weight in holder[0].network.parameters())
    assert not holder.state_dict()  # the network is of the package, not of a checkpoint
    assert not list(holder.parameters())


@pytest.mark.parametrize("name", ["squeezenet", "features"])
def test_squeezenet_is_the_one_that_is_embedded(name):
    assert make_scores(name).fid == "squeezenet_fid"
    assert make_scores("digits").fid == "judge_fid"


def test_any_network_and_layer_scores_under_its_own_name(tmp_path):
    from safetensors.torch import save_file

    from rdfia.common.backbones import load_backbone

    (tmp_path / "weights").mkdir()
    random = load_backbone("resnet18", weights="random").network.state_dict()
    save_file(random, tmp_path / "weights" / "resnet18.safetensors")
    scores = make_scores("resnet18/avgpool", tmp_path)
    assert scores.fid == "resnet18_avgpool_fid"
    images = torch.rand(6, 1, 32, 32)
    for real in (True, False):
        scores.update(images, real=real)
    found = scores.compute()
    assert found["resnet18_avgpool_fid"].item() == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="resnet18 has no layer 'pool9'"):
        make_scores("resnet18/pool9", tmp_path)
    with pytest.raises(ValueError, match=r"scores are those of digits, squeezenet, .*got 'resnet'"):
        make_scores("resnet", tmp_path)


def test_dinov2_is_asked_for_by_its_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"timm_vit_small_patch14_dinov2\.safetensors"):
        make_scores("dinov2", tmp_path)


def test_fid_needs_its_weights_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"FID needs .*pt_inception-2015-12-05-6726825d\.pth.*curl"):
        make_scores("inception", tmp_path)
    broken = tmp_path / "weights" / feature_scores.INCEPTION[0]
    broken.parent.mkdir()
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="holds no weights of FID's Inception-V3"):
        make_scores("inception", tmp_path)


class Images(torch.utils.data.Dataset):
    """Images (N, 3, H, W) as torch-fidelity takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        return self.images[number]


@pytest.mark.slow
def test_distances_of_1000_images_are_torch_fidelitys():
    """The same network on both sides, the embedded SqueezeNet."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    scores = FeatureScores()

    class SqueezeNetFeatures(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)
            self.network = scores.network

        @staticmethod
        def get_provided_features_list():
            return ("fire9",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "fire9"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            return (self.network(images.float() / 255),)

    torch_fidelity.register_feature_extractor("squeezenet-fire9", SqueezeNetFeatures)
    levels = torch.randint(0, 256, (2000, 3, 32, 32), dtype=torch.uint8)
    levels[1000:] //= 2
    sides = {True: levels[:1000], False: levels[1000:]}
    for real, images in sides.items():
        for part in images.split(128):
            scores.update(part.float() / 255, real=real)
    found = scores.compute()
    assert found["n_real"] == found["n_generated"] == 1000
    expected = torch_fidelity.calculate_metrics(
        input1=Images(sides[True]),
        input2=Images(sides[False]),
        feature_extractor="squeezenet-fire9",
        cuda=False,
        fid=True,
        kid=True,
        kid_subset_size=1000,
        kid_subsets=1,
        prc=True,
        verbose=False,
        cache=False,
    )
    close = {"squeezenet_fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}
    for name, theirs in close.items():
        assert found[name].item() == pytest.approx(expected[theirs], rel=1e-3)
    for name in ("precision", "recall"):
        assert found[name].item() == pytest.approx(expected[name], abs=0.003)


@pytest.mark.slow
def test_fid_is_torch_fidelitys(tmp_path, monkeypatch):
    """With random weights in place of the published ones, which are not in this repository."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    network = theirs.FeatureExtractorInceptionV3.__new__(theirs.FeatureExtractorInceptionV3)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    with monkeypatch.context() as patched:
        patched.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: {})
        network.__init__("inception", ["2048"])
    monkeypatch.undo()
    path = tmp_path / "weights" / feature_scores.INCEPTION[0]
    path.parent.mkdir()
    torch.save(network.state_dict(), path)
    scores = make_scores("inception", tmp_path)
    assert scores.fid == "inception_fid"  # FID is that of the published weights
    official = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(feature_scores, "INCEPTION_HASH", official)
    scores = make_scores("inception", tmp_path)
    assert scores.fid == "fid"
    levels = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8)
    levels[40:] //= 2
    sides = {True: levels[:40], False: levels[40:]}
    for real, images in sides.items():
        scores.update(images.float() / 255, real=real)
    found = scores.compute()

    expected = torch_fidelity.calculate_metrics(
        input1=Images(sides[True]),
        input2=Images(sides[False]),
        cuda=False,
        fid=True,
        kid=True,
        kid_subset_size=40,
        kid_subsets=1,
        feature_extractor_weights_path=str(path),
        verbose=False,
        cache=False,
    )
    assert found["fid"].item() == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["kid"].item() == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-3, abs=1e-9
    )

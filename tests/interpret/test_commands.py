import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_picture

from rdfia.common.backbones import classify, imagenet_classes, load_backbone
from rdfia.engine.cli import run_script
from rdfia.interpret.activations import activation_maps, last_maps
from rdfia.interpret.classifier import predict
from rdfia.interpret.commands import adversarial as adversarial_command
from rdfia.interpret.commands import common as shared
from rdfia.interpret.commands import saliency as saliency_command
from rdfia.interpret.commands.attacks import pick_targets, to_attack
from rdfia.interpret.commands.common import Shown, class_of
from rdfia.interpret.config import (
    Activations,
    Adversarial,
    Classify,
    ClassVisualization,
    Describe,
    Saliency,
    Subcommand,
)
from rdfia.interpret.experiment import run

SAMPLE = Path("sample")


def test_vgg16_has_the_parameters_of_the_paper(tmp_path, capsys):
    results = run(Describe(backbone="vgg16", weights="random", output_dir=tmp_path, accelerator="cpu"))
    metrics = {name: value["mean"] for name, value in results["metrics"].items()}
    assert metrics["parameters"] == 138_357_544
    assert metrics["parameters_fully_connected"] == 123_642_856
    assert metrics["parameters_convolutions"] == 14_714_688
    shown = capsys.readouterr().out
    assert "64x224x224" in shown
    assert "102,764,544" in shown
    assert json.loads((tmp_path / "describe" / "results.json").read_text()) == results


def test_photographs_are_recognised_and_drawn(tmp_path, capsys):
    results = run(Classify(data_dir=SAMPLE, output_dir=tmp_path, accelerator="cpu"))
    assert results["metrics"]["top_5"]["mean"] == 1
    assert "espresso 0.9" in capsys.readouterr().out
    figures = list((tmp_path / "classify" / "figures").glob("classes_*.png"))
    assert len(figures) == results["data"]["test"]
    assert all(figure.stat().st_size > 10_000 for figure in figures)


def test_own_files_and_folders_have_no_accuracy(tmp_path):
    write_picture(tmp_path / "one.png", (80, 60), 0)
    write_picture(tmp_path / "folder" / "two.jpg", (60, 80), 1)
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    pictures = (tmp_path / "one.png", tmp_path / "folder")
    results = run(Classify(data_dir=SAMPLE, images=pictures, output_dir=tmp_path / "runs", accelerator="cpu"))
    assert results["metrics"] == {}
    assert results["data"]["test"] == 2


def test_probabilities_are_the_softmax_of_the_logits():
    backbone, images = load_backbone("squeezenet1_1"), torch.rand(3, 3, 64, 64)
    probabilities, indices = classify(backbone, images, 3)
    expected = backbone(images).softmax(1)
    torch.testing.assert_close(probabilities, expected.sort(1, descending=True).values[:, :3])
    assert torch.equal(indices[:, 0], expected.argmax(1))
    names = imagenet_classes()
    assert (len(names), names[0], names[281], names[999]) == (1000, "tench", "tabby", "toilet tissue")


def test_activation_maps_are_those_of_the_layer(tmp_path):
    backbone, images = load_backbone("squeezenet1_1"), torch.rand(2, 3, 64, 64)
    output = backbone.tap(images, ["fire2"])["fire2"]
    maps, channels = activation_maps(backbone, images, "fire2", count=5, order="first")
    assert torch.equal(maps, output[:, :5])
    assert channels[1].tolist() == [0, 1, 2, 3, 4]
    maps, channels = activation_maps(backbone, images, "fire2", count=5)
    strength = output.abs().mean((2, 3))
    for row in range(2):
        assert torch.equal(maps[row], output[row, channels[row]])
        assert strength[row, channels[row]].min() >= strength[row].sort().values[-5]
    with pytest.raises(ValueError, match="fire2 of squeezenet1_1 has 128 maps, asked for 129"):
        activation_maps(backbone, images, "fire2", count=129)
    vgg = load_backbone("vgg16", weights="random")
    with pytest.raises(ValueError, match="fc6 of vgg16 has no maps"):
        activation_maps(vgg, images, "fc6")
    results = run(Activations(data_dir=SAMPLE, layer="fire2", maps=5, output_dir=tmp_path, accelerator="cpu"))
    assert 0.1 < results["metrics"]["fire2/share_not_zero"]["mean"] < 0.9
    assert len(list((tmp_path / "activations" / "figures").iterdir())) == 3


def test_grey_images_through_added_up_filters_look_like_repeated_ones():
    grey = torch.rand(2, 1, 64, 64)
    repeated = load_backbone("squeezenet1_1").tap(grey.expand(-1, 3, -1, -1), ["conv1", "fire4"])
    one = load_backbone("squeezenet1_1", channels=1)
    assert one.network.features[0].weight.shape[1] == 1
    found = one.tap(grey, ["conv1", "fire4"])
    for name in found:
        similar = torch.nn.functional.cosine_similarity(found[name].flatten(1), repeated[name].flatten(1))
        assert similar.min() > 0.98, name
    with pytest.raises(ValueError, match="googlenet transforms its three channels inside"):
        load_backbone("googlenet", weights="random", channels=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (Classify(images=(Path("absent.jpg"),)), "--images absent.jpg does not exist"),
        (Classify(images=(Path("rdfia"),)), "--images rdfia holds no pictures"),
        (Classify(top=0), "--top is 1 to 1000, got 0"),
        (Classify(precision="bf16-mixed"), "--precision is float32"),
        (Activations(layer="pool9"), "squeezenet1_1 has no layer 'pool9'"),
        (Activations(maps=65), "conv1 of squeezenet1_1 has 64 maps, asked for 65"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, args, message):
    args = dataclasses.replace(args, data_dir=SAMPLE, output_dir=tmp_path / "runs", accelerator="cpu")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run(args)
    assert not (tmp_path / "runs").exists()


def test_the_subcommands_are_parsed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["visualize.py", "describe", "--output-dir", str(tmp_path)])
    run_script(run, Subcommand)
    assert "conv10" in capsys.readouterr().out
    assert (tmp_path / "describe" / "results.json").exists()


def test_two_files_of_one_name_have_a_figure_each(tmp_path):
    for folder in ("a", "b"):
        write_picture(tmp_path / folder / "cat.jpg", (60, 80), 1)
    pictures = (tmp_path / "a", tmp_path / "b")
    run(Classify(data_dir=SAMPLE, images=pictures, output_dir=tmp_path, accelerator="cpu"))
    assert len(list((tmp_path / "classify" / "figures").iterdir())) == 2


def test_classes_are_found_by_name_and_near_ones_are_suggested():
    assert class_of("tabby") == 281
    assert class_of("TABBY") == 281
    assert (class_of("Cardigan"), class_of("cardigan")) == (264, 474)  # a dog, and to wear
    assert class_of("281") == 281
    with pytest.raises(ValueError, match=r"no class 'tabbi'; did you mean tabby"):
        class_of("tabbi")
    with pytest.raises(ValueError, match=r"no class 'terrier'; did you mean .*terrier"):
        class_of("terrier")
    with pytest.raises(ValueError, match="no class '1000'"):
        class_of("1000")


def test_grad_cam_takes_the_deepest_layer_with_maps():
    image = torch.rand(1, 3, 64, 64)
    assert last_maps(load_backbone("resnet18", weights="random"), image, 1000) == "layer4"
    assert last_maps(load_backbone("vgg16", weights="random"), image, 1000) == "pool5"
    assert last_maps(load_backbone("squeezenet1_1"), image, 1000) == "fire9"


def test_saliency_is_drawn_and_measured(tmp_path):
    given = {"image_size": 64, "samples": 2, "randomized": 1, "output_dir": tmp_path, "accelerator": "cpu"}
    methods = ("gradient", "grad_cam")
    results = run(Saliency(data_dir=SAMPLE, methods=methods, target_class="predicted", **given))
    for method in methods:
        for kind in ("deletion", "insertion", "randomized"):
            assert -1 <= results["metrics"][f"squeezenet1_1/{method}/{kind}"]["mean"] <= 1
    figures = {path.stem for path in (tmp_path / "saliency" / "figures").iterdir()}
    assert {"faithfulness", "saliency_n02123045_tabby"} <= figures
    assert len(figures) == results["data"]["test"] + 1


def test_the_images_of_the_randomization_are_spread_over_all(monkeypatch):
    seen = {}
    monkeypatch.setattr(saliency_command, "explain", lambda *given: torch.zeros(len(given[3]), 4, 4))
    monkeypatch.setattr(
        saliency_command, "randomized", lambda *given: seen.update(places=given[4].tolist()) or {}
    )
    places, args = torch.arange(250), Saliency(randomized=10, faithfulness=False)
    saliency_command.measure(args, None, "fire9", torch.zeros(250, 3, 4, 4), places, "gradient")
    assert seen["places"][0] == 0
    assert seen["places"][-1] == 249
    assert len({place // 25 for place in seen["places"]}) == 10  # of as many classes, where they lie sorted


def test_images_are_attacked_written_read_and_judged_again(tmp_path):
    given = {"image_size": 96, "steps": 4, "output_dir": tmp_path, "accelerator": "cpu", "curve": (1.0, 8.0)}
    results = run(Adversarial(data_dir=SAMPLE, attacks=("fgsm", "pgd"), target="any", epsilon=8.0, **given))
    metrics = {name: value["mean"] for name, value in results["metrics"].items()}
    assert metrics["pgd/success"] == metrics["pgd/success_as_files"] == metrics["pgd/success_at_8"] > 0
    assert metrics["pgd/success_at_1"] <= metrics["pgd/success_at_8"]
    assert metrics["pgd/median_linf"] <= 8.01 / 255
    folder = tmp_path / "adversarial"
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert "attacked_pgd" in drawn
    assert "success" not in drawn  # of one image, at all distances: a number says it
    assert list((folder / "images").glob("pgd_*.png"))


@pytest.mark.parametrize(
    ("args", "module", "unit"),
    [
        pytest.param(
            Saliency(methods=("gradient", "grad_cam"), samples=2, image_size=64),
            saliency_command,
            "measure",
            marks=pytest.mark.slow,
        ),
        (Adversarial(attacks=("fgsm", "pgd"), steps=2, image_size=96), adversarial_command, "judge"),
    ],
)
def test_what_an_interrupted_run_has_finished_is_not_done_again(tmp_path, monkeypatch, args, module, unit):
    args = dataclasses.replace(args, name="run", data_dir=SAMPLE, accelerator="cpu")
    at_once = run(dataclasses.replace(args, output_dir=tmp_path / "at_once"))
    work, done = getattr(module, unit), []

    def counted(*given):
        if len(done) == 1 and stop:
            raise KeyboardInterrupt
        done.append(given)
        return work(*given)

    monkeypatch.setattr(module, unit, counted)
    stop, args = True, dataclasses.replace(args, output_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(args)
    with pytest.raises(ValueError, match="--seed"):  # it goes on as it began
        run(dataclasses.replace(args, seed=1))
    stop = False
    assert run(args)["metrics"] == at_once["metrics"]
    assert len(done) == 2
    folder = tmp_path / "run"
    assert {path.name for path in folder.rglob("*.png")} == {
        path.name for path in (tmp_path / "at_once" / "run").rglob("*.png")
    }
    assert not (folder / "parts").exists()
    assert run(args)["metrics"] == at_once["metrics"]  # a run that has ended is taken as it is
    assert len(done) == 2
    run(dataclasses.replace(args, overwrite=True))
    assert len(done) == 4


@pytest.mark.slow
def test_a_compiled_network_is_fooled_in_the_same_way(tmp_path):
    given = {"image_size": 96, "queries": 400, "output_dir": tmp_path, "accelerator": "cpu"}
    args = Adversarial(data_dir=SAMPLE, attacks=("shapes",), **given)
    results = [run(dataclasses.replace(args, compile=one, name=f"{one}"))["metrics"] for one in (False, True)]
    plain, compiled = [{name: value["mean"] for name, value in one.items()} for one in results]
    assert plain["shapes/success_as_files"] > 0
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_targets_are_not_the_true_class():
    backbone, images = load_backbone("squeezenet1_1"), torch.rand(3, 3, 64, 64)
    truth = torch.tensor([0, 500, 999])
    for target in ("random", "least-likely", "tabby"):
        targets = pick_targets(Adversarial(), target, backbone, images, truth)
        assert targets.shape == truth.shape
        assert (targets != truth).all()
    assert pick_targets(Adversarial(), "any", backbone, images, truth) is None


def test_images_of_the_target_are_not_attacked_to_become_what_they_are():
    network, images = load_backbone("squeezenet1_1"), torch.rand(4, 3, 64, 64)
    labels = predict(network, images, 4)
    labels[3] = (labels[3] + 1) % 1000  # wrong
    target = imagenet_classes()[int(labels[0])]
    shown = Shown(images, labels, ["a", "b", "c", "d"], {})
    alike = int((labels[:3] == labels[0]).sum())
    _, truth, places, notes = to_attack(Adversarial(target=target), shown, network)
    assert places == [place for place in range(3) if labels[place] != labels[0]]
    assert (truth != labels[0]).all()
    assert notes == [
        "3 of 4 images are classified right; only they are attacked and count",
        f"{alike} of these are left out, as they are of the target's class",
    ]
    assert to_attack(Adversarial(target="random"), shown, network)[2:] == ([0, 1, 2], notes[:1])


@pytest.mark.parametrize("kind", [Saliency, Adversarial, ClassVisualization])
def test_dry_runs_write_nothing(tmp_path, kind):
    more = (
        {"attacks": ("fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes")}
        if kind is Adversarial
        else {}
    )
    given = {"image_size": 96, "output_dir": tmp_path / "runs", "accelerator": "cpu", "fast_dev_run": True}
    run(kind(data_dir=SAMPLE, **given, **more))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        (Saliency, {"target_class": "tabbi"}, "no class 'tabbi'; did you mean tabby"),
        (Adversarial, {"patch_size": 300, "attacks": ("patch",)}, "--patch-size is below --image-size 224"),
        (
            ClassVisualization,
            {"start": Path("absent.jpg"), "preset": "practical"},
            "--start absent.jpg is no",
        ),
        (Saliency, {"layer": "pool9"}, "has no layer 'pool9'; it has: conv1"),
        (Saliency, {"samples": 0}, "--samples is at least 1"),
        (Saliency, {"methods": ()}, "--methods names at least one"),
        (Adversarial, {"target": "true"}, "no class 'true'"),
        (Adversarial, {"queries": 3}, "--queries is at least 10"),
        (Adversarial, {"queries": 32, "attacks": ("shapes",)}, "--queries is at least 33 for shapes"),
        (Adversarial, {"targets_per_image": 1000}, "--targets-per-image is at most 999"),
        (Adversarial, {"epsilon": -2.0}, "--epsilon is above 0, got -2"),
        (Adversarial, {"curve": (0.0, 1.0)}, "--curve is above 0, got 0"),
        (Saliency, {"compare": ("squeezenet1_1",)}, "squeezenet1_1 is named twice"),
        (Saliency, {"backbone": "alexnet", "weights": "random", "layer": "fc6"}, "of alexnet gives no maps"),
        (
            Describe,
            {"backbone": "alexnet", "weights": "random", "image_size": 32},
            "--image-size 32 does not fit alexnet",
        ),
        *(
            (ClassVisualization, {"preset": "practical", "judges": ("resnet18",)} | flags, message)
            for flags, message in (
                ({"table": "rate", "weights": "own.pth"}, "a file holds the weights of one"),
                ({"table": "rate", "ensemble": ("alexnet",)}, "leave --ensemble out"),
                ({"table": "ladder", "start": Path("a.jpg")}, "--table ladder begins with noise"),
                ({"table": "rate", "start": Path("absent.jpg")}, "--start absent.jpg is no picture"),
            )
        ),
        (ClassVisualization, {"classes": ("tabbi",)}, "no class 'tabbi'"),
        (
            ClassVisualization,
            {"start": Path("absent.jpg"), "parametrization": "fourier"},
            "begins with noise",
        ),
    ],
)
def test_what_is_wrong_is_said_before_there_is_a_folder(tmp_path, kind, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(kind(data_dir=SAMPLE, output_dir=tmp_path / "runs", accelerator="cpu", **flags))
    assert not (tmp_path / "runs").exists()


def test_pictures_of_one_name_in_folders_named_by_synset_have_a_figure_each(tmp_path):
    for synset in ("n02123045", "n01440764"):
        write_picture(tmp_path / "pictures" / synset / "1.jpg", (80, 70), 1)
    given = {"image_size": 64, "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    run(Classify(data_dir=SAMPLE, images=(tmp_path / "pictures",), **given))
    figures = tmp_path / "runs" / "classify" / "figures"
    assert len(list(figures.iterdir())) == 2
    (figures / "left_by_a_kill.png").touch()
    (tmp_path / "runs" / "classify" / "index.html").unlink()  # which comes last
    run(Classify(data_dir=SAMPLE, images=(tmp_path / "pictures",), **given))
    assert len(list(figures.iterdir())) == 2


def test_classes_of_a_folder_named_by_synset_are_known(tmp_path):
    for number, name in enumerate(("n02123045_tabby", "n01440764_tench")):
        write_picture(tmp_path / "pictures" / f"{name}.JPEG", (80, 70), number)
    given = {"image_size": 64, "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    results = run(Classify(data_dir=SAMPLE, images=(tmp_path / "pictures",), **given))
    assert "top_1" in results["metrics"]


@pytest.mark.slow
def test_what_transfers_what_a_target_costs_and_a_patch(tmp_path, monkeypatch):
    def load(name, *, weights, data_dir):  # only one network's weights are embedded
        own = weights if name == "squeezenet1_1" else "random"
        return load_backbone(name, weights=own, data_dir=data_dir)

    monkeypatch.setattr(shared, "load_backbone", load)
    for number in range(3):
        write_picture(tmp_path / "pictures" / f"{number}.png", (160, 160), number)
    results = run(
        Adversarial(
            data_dir=SAMPLE,
            images=(tmp_path / "pictures",),
            compare=("resnet18",),
            attacks=("pgd", "pgd_l2", "patch"),
            curve=(0.5, 2.0),
            curve_l2=(0.2, 2.0),
            matrix="pgd",
            targets_per_image=2,
            patch_size=24,
            patch_steps=5,
            image_size=96,
            output_dir=tmp_path / "runs",
            accelerator="cpu",
        )
    )
    metrics = {name: value["mean"] for name, value in results["metrics"].items()}
    assert metrics["matrix/pgd/squeezenet1_1/squeezenet1_1"] == 1  # it fools the network it was made on
    assert metrics["pgd_l2/success_at_0.2"] <= metrics["pgd_l2/success_at_2"]
    assert metrics["influence/success"] > 0.5
    assert -1 <= metrics["influence/correlation_with_rank"] <= 1
    assert metrics["influence/median_l2_of_nearest_eighth"] > 0
    assert metrics["patch/share_of_the_area"] == 1 / 16
    assert 0 <= metrics["patch/success"] <= 1
    figures = {path.stem for path in (tmp_path / "runs" / "adversarial" / "figures").iterdir()}
    assert {"transfer", "transfer_matrix", "influence_of_the_target", "patch", "success"} <= figures


def test_a_weight_file_is_for_the_one_network_that_it_fits(tmp_path):
    file = tmp_path / "own.pth"
    torch.save(load_backbone("resnet18", weights="random").network.state_dict(), file)
    given = {"image_size": 64, "steps": 1, "frames": 1, "output_dir": tmp_path, "accelerator": "cpu"}
    results = run(
        ClassVisualization(
            classes=("tabby",), backbone="resnet18", weights=str(file), judges=("squeezenet1_1",), **given
        )
    )
    assert {"resnet18/confidence", "squeezenet1_1/confidence"} <= results["metrics"].keys()


def test_a_run_has_a_page_of_its_pictures(tmp_path):
    write_picture(tmp_path / "pictures" / "<b>one.png", (80, 60), 0)
    run(
        Classify(
            data_dir=SAMPLE, images=(tmp_path / "pictures",), output_dir=tmp_path / "runs", accelerator="cpu"
        )
    )
    folder = tmp_path / "runs" / "classify"
    page = (folder / "index.html").read_text()
    (source,) = re.findall(r'src="([^"]+)"', page)
    assert source.startswith("data:image/webp;base64,")
    assert "<b>one" not in page  # a file's name is text, never markup


def test_each_picture_is_classified_under_its_own_name(tmp_path, capsys):
    """Names of pictures were taken over by those of classes: the sixth failed."""
    for number in range(7):
        write_picture(tmp_path / "seven" / f"picture {number}.png", (32, 32), number)
    run(
        Classify(
            images=(tmp_path / "seven",),
            data_dir=SAMPLE,
            image_size=64,
            output_dir=tmp_path,
            accelerator="cpu",
        )
    )
    said = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if line[0].isdecimal()] == [f"{n}_picture {n}" for n in range(7)]
    figures = {path.stem for path in (tmp_path / "classify" / "figures").glob("*.png")}
    assert figures == {f"classes_{n}_picture_{n}" for n in range(7)}

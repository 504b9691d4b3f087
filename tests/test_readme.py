"""README says what is: its numbers are those of results/*.json, its tree is the tree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import lab
import pytest
from conftest import ROOT
from lab_questions import CHAPTERS, METHODS, SUMMARY

from rdfia.adaptation.config import ABLATION
from rdfia.engine import report, runs
from rdfia.generation.config import LADDER
from rdfia.interpret.config import TABLES

README = (ROOT / "README.md").read_text()


def results(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def tables() -> list[list[list[str]]]:
    """Return the tables of README: rows of cells, without the rule under the header."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", README, re.MULTILINE)
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in block.splitlines()
            if "---" not in line
        ]
        for block in blocks
    ]


def table(header: str) -> list[list[str]]:
    return next(rows[1:] for rows in tables() if rows[0][0] == header)


def test_the_gan_table_is_that_of_its_results():
    measured = [results(name)["metrics"] for name in ("gan_practical", "gan", "cgan")]
    rows = table("DCGAN, 5 epochs")
    assert len(rows) == 5
    for name, *shown in rows:
        floor = f"{measured[1][f'floor_{name}']['mean']:.3f}"
        assert shown == [*(runs.spread(metrics[name], 3) for metrics in measured), floor], name


def test_the_conditional_gan_table_is_that_of_its_results():
    measured = results("cgan")["metrics"]
    rows = table("conditional DCGAN")
    assert len(rows) == 5
    for name, value, beside in rows:
        assert value == runs.spread(measured[name], 3), name
        if name.endswith("_correlation"):
            assert beside == runs.spread(measured[f"{name}_of_shuffled_pairs"], 3), name


def test_the_ladder_of_the_gan_is_that_of_its_results():
    run, measured = results("gan_ladder"), results("benchmark_gan")
    cost = {"practical": measured["our_step_seconds"]} | measured["ladder_seconds"]
    names = ("judge_fid", "precision", "recall", "confident_share", "smallest_class_share")
    rows = table("from the practicals' recipe to the default")
    assert [row for row, *_ in rows] == ["practical", *LADDER]
    for row, *cells, milliseconds in rows:
        assert cells == [f"{run['metrics'][f'{row}/{name}']['mean']:.3f}" for name in names], row
        assert milliseconds == f"{1000 * cost[row]:.0f}", row
    for what in (run, measured):
        assert what["command"] in README
        assert what["commit"] in README


def test_the_speed_table_is_that_of_its_results():
    measured = results("benchmark_data")
    rows = {name: value for name, value in table("data path")}
    assert rows["our loader, images a second"] == f"{measured['our_images_per_second']:,}"
    assert rows["torchvision + DataLoader, images a second"] == f"{measured['usual_images_per_second']:,}"
    assert rows["times as fast"] == f"{measured['times_as_fast']}"
    assert rows["MNIST-M generated, 70,000 images"] == f"{measured['mnist_m_seconds']} s"
    assert measured["mnist_m_images"] == 70_000


def svm_row(file: str, item: str) -> dict[str, str]:
    """Return what README shows of one row of a train_svm.py run."""
    metrics = {
        name.removeprefix(f"{item}/"): value
        for name, value in results(file)["metrics"].items()
        if name.startswith(f"{item}/")
    }
    shown = {name: f"{metrics[name]['mean']:.4f}" for name in ("accuracy", "accuracy_without_duplicates")}
    for name in ("accuracy_over_splits", "accuracy_over_splits_without_duplicates"):
        if name in metrics:
            assert len(metrics[name]["values"]) == 10
            shown[name] = f"{metrics[name]['mean']:.4f} ± {metrics[name]['std']:.4f}"
    if "features" in metrics:
        shown["features"] = f"{metrics['features']['mean']:,.0f}"
    return shown | {"c": f"{metrics['c']['mean']:.3g}"}


def test_the_layer_table_is_that_of_its_results():
    rows = table("VGG16 layer")
    assert len(rows) == 6
    for layer, features, c, accuracy, distinct, _ in rows:
        shown = svm_row("svm_layers", f"vgg16/{layer}")
        expected = [shown[name] for name in ("features", "c", "accuracy", "accuracy_without_duplicates")]
        assert [features, c, accuracy, distinct] == expected, layer
    measured = results("svm_layers")
    assert f"{measured['wall_seconds'] / 60:.0f} minutes" in README
    assert f"{measured['peak_memory_gb']:.1f} GB" in README


def test_the_network_table_is_that_of_its_results():
    rows = table("features, linear SVM")
    assert len(rows) >= 5
    for name, accuracy, distinct, splits, splits_distinct in rows:
        files = {"vgg16/pool5": "svm_pool5", "squeezenet1_1/fire9": "svm_squeezenet_grids"}
        item = (
            "together"
            if name.startswith("together")
            else name.replace("lite0/", "timm:tf_efficientnet_lite0/")
        )
        shown = svm_row(files.get(name, "svm_networks"), item)
        names = ("accuracy", "accuracy_without_duplicates", "accuracy_over_splits")
        names += ("accuracy_over_splits_without_duplicates",)
        assert [accuracy, distinct, splits, splits_distinct] == [shown[key] for key in names], name


def test_what_bfloat16_costs_is_that_of_its_results():
    exact, rounded = (svm_row(file, "vgg16/pool5") for file in ("svm_pool5_float32", "svm_pool5"))
    assert f"{exact['accuracy']}, over 10 splits {exact['accuracy_over_splits']}" in README
    assert abs(float(exact["accuracy"]) - float(rounded["accuracy"])) < 0.002


def test_the_svm_speed_table_is_that_of_its_results():
    measured = results("benchmark_svm")
    rows = {name: value for name, value in table("transfer learning, speed")}
    for name, value in rows.items():
        key = name.partition(", ")[0]
        found = measured[key.replace(" ", "_")]
        assert value == f"{found:,}", name
    sweep = measured["sweep"]
    assert sum(row["differ_from_scikit_learn"] for row in sweep) == 0
    assert sum(row["plain_weights_differ"] for row in sweep) == 0
    assert measured["reloaded_checkpoint_differs"] == 0


def test_the_fine_tuning_table_is_that_of_its_results():
    rows = table("fine-tuning")
    assert len(rows) >= 3
    for _, file, accuracy, distinct, seconds in rows:
        metrics = results(file.strip("`"))["metrics"]
        assert accuracy == f"{metrics['accuracy']['mean']:.4f}", file
        assert distinct == f"{metrics['accuracy_without_duplicates']['mean']:.4f}", file
        assert seconds == f"{results(file.strip('`'))['wall_seconds']:.0f}", file


def spread(metric: dict, digits: int = 4) -> str:
    """Return mean ± std over three seeds."""
    assert len(metric["values"]) == 3
    return f"{metric['mean']:.{digits}f} ± {metric['std']:.{digits}f}"


def test_the_table_of_the_default_network_is_that_of_its_results():
    metrics = results("dann")["metrics"]
    rows = table("the default network, 10 epochs")
    assert [row[0] for row in rows] == ["source-only", "source-only, AdaBN", "dann", "pseudo-labels"]
    for row, *cells in rows:
        names = ["source_accuracy", "target_accuracy"]
        names += [f"target_accuracy_by_{how}" for how in ("source", "information", "density", "oracle")]
        known = [metrics.get(f"{row}/{name}") for name in names]
        assert cells == ["-" if metric is None else spread(metric) for metric in known], row
    for row in ("dann", "source-only"):
        assert f"{metrics[f'{row}/seconds']['mean']:.0f} s" in README
        assert f"{metrics[f'{row}/a_distance']['mean']:.2f}" in README
    for noun in ("information", "density"):
        both = " against ".join(
            f"{metrics[f'{row}/target_{noun}']['mean']:.2f}" for row in ("dann", "source-only")
        )
        assert f"({both}" in README
    command = results("dann")["command"]
    assert command in README


def test_the_table_of_the_papers_network_is_that_of_its_results():
    metrics = results("dann_paper")["metrics"]
    rows = table("the paper's network, 20 epochs")
    assert [row[0] for row in rows] == ["source-only", "no-reversal", "dann", "target-trained"]
    for row, *cells in rows:
        found = []
        for domain in ("source", "target"):
            found += [f"{metrics[f'{row}/{domain}_loss']['mean']:.3f}"]
            found += [spread(metrics[f"{row}/{domain}_accuracy"])]
        for noun in ("domain_loss", "domain_accuracy"):
            names = [f"{row}/{domain}_{noun}" for domain in ("source", "target")]
            found += [" / ".join(f"{metrics[n]['mean']:.3f}" for n in names) if names[0] in metrics else "-"]
        found += [f"{metrics[f'{row}/a_distance']['mean']:.2f}"]
        assert cells == found, row


def test_the_ablation_table_is_that_of_its_results():
    metrics = results("dann_ablation")["metrics"]
    base = metrics["dann/target_accuracy"]
    rows = table("change to the paper's recipe")
    assert {name for name, *_ in rows} == {"none", *ABLATION}
    for name, accuracy, difference, source in rows:
        row = "dann" if name == "none" else name
        value = metrics[f"{row}/target_accuracy"]
        assert accuracy == spread(value, 3), name
        assert source == spread(metrics[f"{row}/source_accuracy"], 3), name
        assert difference == ("" if name == "none" else f"{value['mean'] - base['mean']:+.3f}"), name


def test_the_table_of_saliency_is_that_of_its_results():
    run, rows = results("saliency"), table("faithfulness of maps")
    assert [tuple(row[:2]) for row in rows] == [
        (network, method.replace("_", " "))
        for network in ("squeezenet1_1", "resnet18", "mobilenet_v2_tfsame")
        for method in METHODS
    ]
    for network, method, *cells in rows:
        place = f"{network}/{method.replace(' ', '_')}"
        scores = [run["metrics"][f"{place}/{name}"] for name in ("deletion", "insertion", "randomized")]
        assert cells == [runs.spread(score, 3) for score in scores], place
    assert "over 250 images; randomization over 10" in run["notes"]
    assert run["command"] in README
    assert run["commit"] in README


def test_the_ablation_table_of_the_gan_is_that_of_its_results():
    run = results("gan_ablation")
    names = ("judge_fid", "precision", "recall", "confident_share", "smallest_class_share", "loss_swing")
    rows = table("change to the practicals' recipe")
    trained = [key.removesuffix("/recall") for key in run["metrics"] if key.endswith("/recall")]
    assert [row for row, *_ in rows] == trained
    for row, *cells, outcome in rows:
        assert cells == [runs.spread(run["metrics"][f"{row}/{name}"], 3) for name in names], row
        assert f"{row}: {outcome}" in run["notes"], row
    assert run["command"] in README
    assert run["commit"] in README


@pytest.mark.parametrize("technique", ["GAN", "DANN", "seeing", "DDP"])
def test_a_speed_table_is_that_of_its_results(technique):
    measured, rows = results(f"benchmark_{technique.lower()}"), table(f"{technique}, speed")
    assert len(rows) >= 5
    for name, value in rows:
        assert value == f"{measured[name.replace(' ', '_')]:,}", name


def test_the_facts_in_the_text_are_those_of_the_results():
    for name in ("gan", "gan_practical", "cgan"):
        run = results(name)
        assert "dirty" not in run["commit"]
        assert run["commit"] in README
        assert f"{run['wall_seconds']:.0f} s" in README
        assert run["command"].removesuffix(" --overwrite") in README
        assert f"{run['peak_memory_gb']} GB" in README


def test_what_the_label_in_the_discriminator_does_is_that_of_its_results():
    metrics = results("cgan_no_label")["metrics"]
    row = "no-label-in-discriminator"
    assert f"appears with {metrics[f'{row}/conditional_accuracy']['mean']:.3f}" in README
    assert f"(slant {metrics[f'{row}/slant_correlation']['mean']:.3f})" in README


def test_result_files_that_are_named_exist():
    for name in re.findall(r"`results/(\w+\.json)`", README):
        assert (ROOT / "results" / name).is_file(), name


def test_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


def few(items: list[str]) -> list[str]:
    """Return the first and the last two of more than four."""
    return items if len(items) <= 4 else [*items[:2], "…", *items[-2:]]


def answered() -> list[list[str]]:
    """Return what README's table of questions must say: question, experiments, numbers, figures."""
    rows = []
    for chapter in CHAPTERS:
        for question in chapter.questions:
            places = [*question.rows.values(), *question.figures.values()]
            names = list(dict.fromkeys(map(report.run_of, places)))
            found = report.answer(question, report.read_runs(ROOT / "results", names, "{}.json"))
            first = [f"{row[0].text} {row[1].text}" for row in found.rows]
            assert first, f"{question.title} is not answered"
            said = f"{found.header[1]}: {'; '.join(few(first))}"
            figures = ", ".join(few([f"`{place}`" for place in question.figures.values()]))
            rows.append([question.title, ", ".join(f"`{name}`" for name in names), said, figures])
    return rows


def test_the_questions_are_answered_as_the_results_say():
    assert table("question") == answered()


@pytest.mark.slow
def test_another_network_for_dann_is_handed_in(tmp_path):
    """The code that README gives, for one epoch."""
    (code,) = re.findall(r"```python\n(import lightning\n.*?)```", README, re.DOTALL)
    assert "max_epochs=4" in code
    short = code.replace("max_epochs=4", "max_epochs=1, logger=False, accelerator='cpu'")
    done = subprocess.run([sys.executable, "-c", short], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("heading", "tables"),
    [
        ("class visualisation", ["ladder"]),
        ("a regularizer left out", ["regularizers"]),
        ("SqueezeNet alone", ["rate", "penalty", "steps"]),
    ],
)
def test_the_class_visualization_tables_are_those_of_their_results(heading, tables):
    rows = []
    for name in tables:
        run = results(f"class_{name}")
        assert f"--table {name}" in README
        assert "dirty" not in run["commit"]
        assert run["commit"] in README
        for row in TABLES[name]:
            scores = [run["metrics"][f"{row}/{score}"]["mean"] for score in ("confidence", "top_5", "top_1")]
            rows.append([row, *(f"{score:.3f}" for score in scores)])
    assert table(heading) == rows


def test_the_attack_table_is_that_of_its_results():
    metrics, rows = results("adversarial")["metrics"], table("attack on SqueezeNet")
    assert len(rows) == 8
    forms = {"success": ".3f", "success_as_files": ".3f", "median_l2": ".2f", "median_linf": ".1f"}
    forms |= {"median_psnr": ".1f", "median_queries": ",.0f", "under_transformations": ".3f"}
    forms |= {"transfer/resnet18": ".2f", "transfer/mobilenet_v2_tfsame": ".2f"}
    for row, *cells in rows:
        for (name, form), cell in zip(forms.items(), cells, strict=True):
            known = metrics.get(f"{row}/{name}")
            scale = 255 if name == "median_linf" else 1
            assert cell == ("-" if known is None else format(scale * known["mean"], form)), (row, name)


def test_the_runs_of_seeing_are_named():
    for name in ("adversarial", "benchmark_seeing"):
        run = results(name)
        assert "dirty" not in run["commit"]
        assert run["commit"] in README
        assert run["command"] in README


def test_the_output_of_the_demo_is_that_of_its_results():
    folder = ROOT / "results" / "demo"
    found = report.read_runs(folder, [path.name for path in folder.iterdir()])
    lines = [f"{row[0].text:64}{row[1].text:>22}" for row in report.answer(SUMMARY, found).rows]
    assert len(lines) >= 10
    assert "\n".join(["```", *lines, "", "open runs/demo/report.html", "```"]) in README
    assert lab.Args(scale="demo").folder == Path("runs/demo")

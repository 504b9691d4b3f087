"""README says what is: its numbers are those of results/*.json, its tree is the tree."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    metrics = results("gan")["metrics"]
    rows = table("DCGAN, 5 epochs")
    assert len(rows) == 5
    for name, generated, real in rows:
        for key, shown in ((name, generated), (f"floor_{name}", real)):
            digits = len(shown.split(".")[1])
            assert shown == f"{metrics[key]['mean']:.{digits}f}", key


def test_the_speed_table_is_that_of_its_results():
    measured = results("benchmark_data")
    rows = {name: value for name, value in table("data path")}
    assert rows["our loader, images a second"] == f"{measured['our_images_per_second']:,}"
    assert rows["torchvision + DataLoader, images a second"] == f"{measured['usual_images_per_second']:,}"
    assert rows["times as fast"] == f"{measured['times_as_fast']}"
    assert rows["MNIST-M generated, 70,000 images"] == f"{measured['mnist_m_seconds']} s"
    assert measured["mnist_m_images"] == 70_000


def test_the_svm_table_is_that_of_its_results():
    measured = results("svm_vgg16_pool5")
    metrics = {name.removeprefix("pool5/"): value for name, value in measured["metrics"].items()}
    rows = {name: value for name, value in table("VGG16 pool5 + linear SVM")}
    assert rows["published split"] == f"{metrics['accuracy']['mean']:.4f}"
    assert rows["without duplicates"] == f"{metrics['accuracy_without_duplicates']['mean']:.4f}"
    splits = metrics["accuracy_over_splits"]
    assert len(splits["values"]) == 10
    assert rows["10 seeded splits"] == f"{splits['mean']:.4f} ± {splits['std']:.4f}"
    assert measured["commit"] in README


def test_the_facts_in_the_text_are_those_of_the_results():
    gan = results("gan")
    commit = gan["commit"]
    assert "dirty" not in commit
    assert commit in README
    assert f"{gan['wall_seconds']:.0f} s" in README
    assert f"{gan['peak_memory_gb']} GB" in README
    command = gan["command"].replace("../shared/data", "data").replace(" --overwrite", "")
    assert command in README


@pytest.mark.parametrize("folder", ["rdfia", "datamodules", "scripts"])
def test_the_tree_names_every_file(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert path.name in README or path.name == "__init__.py", path


def test_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


def test_commands_name_scripts_and_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for script in re.findall(r"python (scripts/\w+\.py)", README):
        assert (ROOT / script).is_file(), script

"""How figures look: axes end where numbers do, names are legible, what a number says is not drawn."""

import json
from xml.etree import ElementTree

import lightning
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from rdfia.common import plots
from rdfia.common.figure_style import (
    APART,
    DARK,
    EITHER,
    MOST_POINTS,
    PALETTE,
    as_svg,
    axis_label,
    on_any_paper,
    short,
)
from rdfia.common.smoothing import running_mean
from rdfia.engine.runs import save_figure, write_figure

STEPS = list(range(100))
FALLING = [2.0 - 0.01 * step for step in STEPS]


def test_what_a_number_says_is_not_drawn():
    one, flat, two = ([5], [0.3]), (STEPS, [1.0] * 100), (STEPS, FALLING)
    assert plots.curves({"a": {"": one}, "b": {"": flat}, "c": {}}, x_label="x") is None
    figure = plots.curves({"a": {"": one}, "b": {"": two}}, x_label="x")
    assert [axes.get_ylabel() for axes in figure.axes] == ["b"]
    # Pictures beside them are seen all the same.
    beside = plots.curves({"a": {"": one}}, x_label="x", images={"samples": torch.rand(4, 1, 8, 8)})
    assert [axes.get_title() for axes in beside.axes] == ["samples"]
    assert plots.bars({"accuracy": {"alone": 0.5}}) is None
    assert plots.bars({"accuracy": {"one": 0.5, "two": 0.6}}) is not None


def test_shares_end_at_one_and_say_which_way_is_better():
    share = axis_label("accuracy", share=True, better="more")
    lines = {"a": (STEPS, [step / 99 for step in STEPS])}
    (axes,) = plots.curves({share: lines}, x_label="batch").axes
    assert axes.get_ylabel() == "accuracy (more is better)"
    assert max(axes.get_yticks()) == pytest.approx(1)
    assert axes.spines["left"].get_bounds()[1] == 1
    assert lines["a"][1][-1] < axes.get_ylim()[1]  # nothing is cut off
    (axes,) = plots.bars({share: {"one": 0.9, "two": 1.0}}).axes
    assert max(axes.get_xticks()) == pytest.approx(1)
    assert [text.get_text() for text in axes.texts] == ["0.900", "1.000"]


def test_large_numbers_are_short():
    assert [short(value) for value in (0.91234, 3, 512, 25088, 138_357_544, 1_849_688_064, -2e6, 3e12)] == [
        *("0.912", "3", "512", "25.1 k", "138 M", "1.85 G", "-2 M", "3 T")
    ]
    (axes,) = plots.bars({"parameters": {"a": 1e6, "b": 2e8}}).axes
    axes.figure.canvas.draw()
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert "100 M" in shown
    assert axes.xaxis.get_offset_text().get_text() == ""
    (axes,) = plots.curves({"FID": {"": ([1, 2, 3], [34_310.0, 34_312.0, 34_315.0])}}, x_label="epoch").axes
    axes.figure.canvas.draw()
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(set(ticks)) == len(ticks) > 2


def test_a_first_loss_of_18_flattens_nothing_and_is_said():
    (axes,) = plots.curves({"loss": {"train": (STEPS, [18.0, *FALLING[1:]])}}, x_label="batch").axes
    assert axes.get_ylim()[1] < 3
    assert "at first up to 18" in [text.get_text() for text in axes.texts]
    (axes,) = plots.curves({"loss": {"train": (STEPS, FALLING)}}, x_label="batch").axes
    assert not any("at first" in text.get_text() for text in axes.texts)
    (axes,) = plots.curves({"loss": {"train": ([1, 2, 3, 4], [15.6, 1.0, 0.8, 0.7])}}, x_label="epoch").axes
    assert axes.get_ylim()[1] < 2
    assert "at first up to 15.6" in [text.get_text() for text in axes.texts]


def test_a_loss_that_explodes_at_the_end_is_not_cut_off():
    exploding = [1.0] * 990 + [100.0] * 10
    (axes,) = plots.curves({"loss": {"train": (range(1000), exploding)}}, x_label="batch").axes
    assert axes.get_ylim()[1] > 100
    assert not any("at first" in text.get_text() for text in axes.texts)
    (axes,) = plots.curves({"loss": {"train": ([1, 2, 3, 4], [1.0, 0.8, 0.7, 9.0])}}, x_label="epoch").axes
    assert axes.get_ylim()[1] > 9  # a last one that is high is what there is to see


def test_names_stand_at_the_ends_of_lines_apart_from_each_other():
    lines = {f"line {number}": (STEPS, [value + number / 1000 for value in FALLING]) for number in range(5)}
    (axes,) = plots.curves({"loss": lines}, x_label="batch").axes
    names = {text.get_text(): text for text in axes.texts}
    assert names.keys() == lines.keys()
    heights = sorted(text.xy[1] for text in names.values())
    assert min(np.diff(heights)) == pytest.approx(APART)
    assert heights[-1] <= 1
    for number, name in enumerate(lines):
        assert names[name].get_color() == PALETTE[number]
        assert axes.lines[number].get_color() == PALETTE[number]
    # More have a legend, outside of the panel; a line without a name has none.
    many = {f"line {number}": (STEPS, FALLING) for number in range(7)}
    (axes,) = plots.curves({"loss": many}, x_label="batch").axes
    assert len(axes.get_legend().get_texts()) == 7
    (axes,) = plots.curves({"loss": {"": (STEPS, FALLING)}}, x_label="batch").axes
    assert axes.get_legend() is None
    assert not axes.texts


def test_running_means_reach_both_ends():
    means = running_mean([1.0, 2.0, 6.0, 3.0, 8.0], 3)
    assert means.tolist() == pytest.approx([1.5, 3.0, 11 / 3, 17 / 3, 5.5])
    figure = plots.curves({"loss": {"train": (STEPS, FALLING)}}, x_label="batch", smooth=10)
    raw, smooth = figure.axes[0].lines
    assert len(raw.get_xdata()) == len(smooth.get_xdata()) == 100
    assert "Loss, running mean at batch" in figure.get_label()
    # What comes once in many batches is measured by itself: 5 batches hold no two of its points.
    seldom = plots.curves({"FID": {"val": ([0, 50, 99], [9.0, 2.0, 4.0])}}, x_label="batch", smooth=5)
    assert len(seldom.axes[0].lines) == 1
    assert seldom.get_label() == "FID at batch 99: val 4."


def test_other_figures_keep_their_style():
    before = dict(matplotlib.rcParams)
    plots.curves({"loss": {"train": (STEPS, FALLING)}}, x_label="batch")
    assert dict(matplotlib.rcParams) == before


def test_lines_are_drawn_as_svg_that_follows_the_system():
    figure = plots.curves({"loss": {"train": (STEPS, FALLING)}}, x_label="batch")
    drawing = as_svg(figure)
    root = ElementTree.fromstring(drawing)
    assert root.tag.endswith("svg")
    text = drawing.decode()
    assert "@media(prefers-color-scheme:dark)" in text
    # Each colour that is exchanged is named once by day, and nowhere else.
    for light, dark in DARK.items():
        assert text.count(light) == 1
        assert f":{dark};" in text
    assert PALETTE[0].lower() in text.lower()
    again = plots.curves({"loss": {"train": (STEPS, FALLING)}}, x_label="batch")
    assert as_svg(again) == drawing
    assert as_svg(plots.image_grids({"a": torch.rand(4, 1, 8, 8)})) is None
    long = list(range(MOST_POINTS + 1))
    assert as_svg(plots.curves({"loss": {"train": (long, long)}}, x_label="batch")) is None


def test_pictures_are_read_on_light_and_dark_paper(tmp_path):
    counts = torch.tensor([[9, 1], [0, 5]])
    path = write_figure(tmp_path, "confusion", plots.confusion_matrix(counts, ["a", "b"], title="confusions"))
    assert not path.with_suffix(".svg").exists()
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGBA")).reshape(-1, 4)
    assert pixels[0, 3] == 0  # no paper
    solid = pixels[pixels[:, 3] == 255]
    assert (solid[:, :3] == 0x76).all(1).any()  # letters beside the picture
    assert (solid[:, :3] < 0x50).all(1).any()  # and in it


def test_an_svg_stands_beside_the_png_and_goes_with_it(tmp_path):
    lines, flat = ({"loss": {"train": (STEPS, values)}} for values in (FALLING, [1.0] * 100))
    path = write_figure(tmp_path, "curves", plots.curves(lines, x_label="batch"))
    assert sorted(one.name for one in path.parent.iterdir()) == ["curves.png", "curves.svg"]
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    save_figure(tmp_path, "curves", plots.curves(flat, x_label="batch"), trainer)
    assert list(path.parent.iterdir()) == []


def test_a_figure_says_what_there_is_to_see_and_its_file_does(tmp_path):
    share = axis_label("accuracy", share=True, better="more")
    figure = plots.curves({share: {"": ([1, 2, 3], [0.2, 0.9, 0.8])}}, x_label="epoch")
    assert figure.get_label() == "Accuracy at epoch 3: 80.0%; highest at 2, 90.0%."
    path = write_figure(tmp_path, "curves", figure)
    with Image.open(path) as file:
        assert file.info["Description"] == figure.get_label()
    loss = axis_label("loss", better="less")
    lines = {loss: {"train": ([1, 5, 9], [2.0, 0.7, 0.5]), "test": ([1, 5, 9], [2.5, 1.25, 1.5])}}
    said = "Loss at epoch 9: test 1.5, train 0.5; test lowest at 5, 1.25."
    assert plots.curves(lines, x_label="epoch").get_label() == said
    said = said.replace("epoch 9", "the right end")
    assert plots.curves(lines, x_label="share of the pixels that go").get_label() == said
    many = {f"class {number}": number / 10 for number in range(10)}
    said = plots.bars({share: many}).get_label()
    assert said == "Accuracy: of 10, highest 90.0% (class 9), lowest 0.0% (class 0)."
    same = {f"method {number}": ([0, 1], [number, 0.001]) for number in range(6)}
    assert plots.curves({"area": same}, x_label="share").get_label() == "Area at share 1: 0.001, all 6."
    counts = torch.tensor([[8, 2], [0, 10]])
    assert plots.confusion_matrix(counts, ["a", "b"]).get_label() == (
        "2 of 20 are wrong; most often a told as b (2 of 10)."
    )
    named = plots.confusion_matrix(counts, ["a", "b"], title="seed 0").get_label()
    assert named.startswith("seed 0: 2 of 20 are wrong")
    table = torch.tensor([[1.0, 0.25], [float("nan"), 0.5]])
    found = plots.matrix(table, ["x", "y"], ["u", "v"], labels=("made on", "fools")).get_label()
    assert found == "Highest 100% (made on x, fools u), lowest 25% (made on x, fools v)."
    panels = {f"panel {number}": {"": ([1, 2], [1.0, 2.0])} for number in range(6)}
    assert plots.curves(panels, x_label="epoch").get_label().endswith("2 more panels.")


def test_lines_of_different_lengths_end_where_they_end():
    lines = {"a": ([1, 2, 3], [3.0, 2.0, 1.0]), "b": ([1, 2], [5.0, 4.0])}
    label = plots.curves({"loss": lines}, x_label="batches").get_label()
    assert label == "Loss at the end of each line: b 4, a 1."


def test_confusions_of_many_classes_are_a_picture_that_can_be_opened(tmp_path):
    count = 120
    names = [f"class {number}" for number in range(count)]
    figure = plots.confusion_matrix(torch.eye(count).long().roll(1, 0) + torch.eye(count).long(), names)
    path = write_figure(tmp_path, "confusion", figure)
    with Image.open(path) as file:
        assert 20 * count < file.width < 5200  # and no more, however many there are
        assert len(json.loads(file.info["Spots"])["spots"]) == 2 * count


def test_lines_are_drawn_as_they_are_where_no_mean_is_asked_for():
    x = [n / 28 for n in range(29)]  # a share of pixels: all of it is one wide
    y = [n**2 / 28**2 for n in range(29)]
    figure = plots.curves({"probability": {"map": (x, y)}}, x_label="share of the pixels")
    (line,) = figure.axes[0].get_lines()
    assert list(line.get_ydata()) == y
    assert "running mean" not in figure.get_label()


def test_schedules_are_not_smoothed_and_losses_are():
    x = [float(n) for n in range(100)]
    lines = {"loss": {"": (x, [n % 2 for n in x])}, "lambda": {"": (x, x)}}
    figure = plots.curves(lines, x_label="batch", smooth=10, schedules=["lambda"])
    of_loss, of_lambda = (axes.get_lines() for axes in figure.axes)
    assert max(of_loss[-1].get_ydata()[10:-10]) < 0.6
    (line,) = of_lambda
    assert list(line.get_ydata()) == x


def test_ten_groups_and_ten_lines_are_told_apart():
    points, groups = torch.rand(20, 2), torch.arange(20) % 10
    figure = plots.scatter({"by class": (points, groups, [str(n) for n in range(10)])}, columns=1)
    drawn = figure.axes[0].collections
    looks = {(tuple(one.get_facecolor()[0]), one.get_paths()[0].vertices.tobytes()) for one in drawn}
    assert len(looks) == 10
    figure = plots.curves({"loss": {str(n): ([0, 1], [n, n + 1]) for n in range(10)}}, x_label="batch")
    looks = {(one.get_color(), one.get_linestyle(), one.get_marker()) for one in figure.axes[0].get_lines()}
    assert len(looks) == 10


def test_all_that_is_written_beside_pictures_is_read_on_any_paper():
    figure = plots.curves(
        {"loss": {"a": (STEPS, FALLING)}}, x_label="batch", images={"samples": torch.rand(4, 1, 8, 8)}
    )
    of_lines, of_picture = figure.axes
    of_lines.text(0, 1, "a number")
    of_lines.text(0, 1, "a name in its colour", color=PALETTE[1])
    of_picture.text(0, 0, "on the picture", color="#000000")
    of_lines.legend()
    on_any_paper(figure)
    assert [text.get_color() for text in of_lines.texts][-2:] == [EITHER, PALETTE[1]]
    assert [text.get_color() for text in of_picture.texts] == ["#000000"]
    assert [text.get_color() for text in of_lines.get_legend().get_texts()] == [EITHER]

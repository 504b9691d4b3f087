"""What a page says where a figure is pointed at: the places are those of the figure's points."""

import base64
import io
import json

import numpy as np
import torch
from PIL import Image

from rdfia.common import figure_spots, plots
from rdfia.common.figure_style import as_png


def known_of(figure):
    """Return the figure as its file holds it, (H, W, 3), and its places."""
    with Image.open(io.BytesIO(as_png(figure))) as file:
        known = json.loads(file.info["Spots"])
        paper = Image.new("RGBA", file.size, "white")
        paper.alpha_composite(file.convert("RGBA"))
    return np.asarray(paper.convert("RGB")).astype(int), known


def sheet_of(known):
    content = base64.b64decode(known["pictures"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_places_of_points_are_where_their_ink_is():
    points = torch.tensor([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0]])
    figure = plots.scatter(
        {"one": (points, torch.tensor([0, 1, 0]), ["zero", "one"])}, columns=1, images=torch.rand(3, 1, 8, 8)
    )
    pixels, known = known_of(figure)
    assert [spot[2] for spot in known["spots"]] == ["zero", "one", "zero"]
    height, width = pixels.shape[:2]
    for x, y, *_ in known["spots"]:
        place = pixels[
            round(y * height) - 1 : round(y * height) + 2, round(x * width) - 1 : round(x * width) + 2
        ]
        assert place.min() < 200  # the point, on white
    far = pixels[round(0.5 * height), round(0.02 * width)]
    assert far.min() == 255


def test_a_cell_has_its_count_and_its_pictures():
    counts = torch.tensor([[5, 1], [0, 4]])
    truth, said = torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])
    images = torch.stack([torch.full((3, 20, 20), shade) for shade in (1.0, 0.5, 0.0)])
    seen = figure_spots.examples(lambda some: images[some], truth, said)
    assert list(seen) == [(0, 1)]
    pixels, known = known_of(plots.confusion_matrix(counts, ["</script>", "b"], images=seen))
    labels = {spot[2]: spot[3:] for spot in known["spots"]}
    assert labels == {
        "</script> told as </script>: 5 of 6": [0, 0],
        "</script> told as b: 1 of 6": [0, 1],
        "b told as b: 4 of 4": [1, 0],
    }
    assert known["tile"] == 20
    assert sheet_of(known).min() > 240  # the white one
    x, y = next(spot[:2] for spot in known["spots"] if spot[2].endswith("5 of 6"))
    cell = pixels[round(y * pixels.shape[0]) + 12, round(x * pixels.shape[1])]
    assert cell[2] > cell[0] + 40  # blue, as most of this class are


def test_no_text_of_it_ends_a_page_s_script():
    figure = plots.confusion_matrix(torch.eye(2, dtype=torch.long), ["</script>", "b"])
    with Image.open(io.BytesIO(as_png(figure))) as file:
        assert "</" not in file.info["Spots"]


def test_values_of_a_short_line_are_said_and_a_long_one_has_none():
    _, known = known_of(plots.curves({"loss": {"train": ([1, 2], [2.0, 0.5])}}, x_label="epoch"))
    assert [spot[2] for spot in known["spots"]] == ["train: 2 at 1", "train: 0.5 at 2"]
    assert known["spots"][0][1] < known["spots"][1][1]  # higher on the page
    long = plots.curves({"loss": {"train": (range(100), [float(n) for n in range(100)])}}, x_label="epoch")
    with Image.open(io.BytesIO(as_png(long))) as file:
        assert "Spots" not in file.info


def test_pictures_that_panels_share_are_there_once():
    points, groups = torch.rand(5, 2), torch.zeros(5, dtype=torch.long)
    panels = {name: (points, groups, ["all"]) for name in ("before", "after")}
    _, known = known_of(plots.scatter(panels, columns=2, images=torch.rand(5, 3, 100, 100)))
    assert [spot[3] for spot in known["spots"]] == [0, 1, 2, 3, 4] * 2
    assert sheet_of(known).shape == (48, 5 * 48, 3)

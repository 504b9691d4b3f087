"""The page in a real browser: Debian's chromium and chromium-driver."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import accessibility_faults
from PIL import Image
from run_folders import metric, write_picture, write_run

from rdfia.common import plots
from rdfia.engine import report
from rdfia.engine.questions import Chapter, Question
from rdfia.engine.runs import write_figure

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_run(folder, "gan", {f"{row}/recall": metric(value) for row, value in (("a", 0.5), ("b", 0.25))})
    write_picture(folder / "gan" / "figures" / "samples.png")
    frames = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in range(0, 250, 50)]
    frames[0].save(folder / "gan" / "figures" / "film.gif", save_all=True, append_images=frames[1:])
    rows = {"first of the rows": "gan:a", "second": "gan:b"}
    question = Question(
        "What does it cost?",
        rows=rows,
        columns={f"recall {number}": "recall" for number in range(12)},
        figures={"samples": "gan/samples", "film": "gan/film"},
    )
    path = folder / "report.html"
    chapters = [Chapter("Generation", [question])]
    runs = report.read_runs(folder, ["gan"])
    report.write_report(path, "A lab", chapters, runs, runs_folder=folder, summary=question)
    return path


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_and_has_no_error(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    sizes = browser.execute_script("return [...document.images].map(one => [one.complete, one.naturalWidth])")
    assert len(sizes) == 6
    assert all(complete and width > 0 for complete, width in sizes)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    assert shot.width == width
    assert len(np.unique(np.asarray(shot.convert("L")))) > 20  # something is drawn


def test_the_slider_shows_one_frame(browser, page):
    browser.get(page.as_uri())
    shown = "return [...document.querySelectorAll('.frames img')].map(one => getComputedStyle(one).display)"
    assert browser.execute_script(shown) == ["none"] * 4 + ["block"]
    slide = "const one = document.querySelector('.frames input'); one.value = 1;"
    browser.execute_script(f"{slide} one.dispatchEvent(new Event('input'))")
    assert browser.execute_script(shown) == ["none", "block", "none", "none", "none"]


def test_a_picture_is_enlarged_at_a_tap(browser, page):
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    is_open = "return document.querySelector('dialog').open"
    assert not browser.execute_script(is_open)
    browser.execute_script("document.querySelector('.enlarge').click()")
    assert browser.execute_script(is_open)
    width = "return document.querySelector('{}').getBoundingClientRect().width"
    small, large = (browser.execute_script(width.format(one)) for one in (".enlarge img", "dialog img"))
    assert small <= 390
    assert large == 1400  # in a frame that scrolls: the page stays as wide as the screen
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_script("document.querySelector('dialog button').click()")
    assert not browser.execute_script(is_open)


def test_tables_are_sorted_by_their_heads(browser, page):
    browser.get(page.as_uri())
    rows = "document.querySelector('section table').tBodies[0].rows"
    first = f"return [...{rows}].map(row => row.cells[0].textContent)"
    assert browser.execute_script(first) == ["first of the rows", "second"]
    orders = (
        ["first of the rows", "second"],
        ["second", "first of the rows"],
        ["first of the rows", "second"],
    )
    for rows, sort in zip(orders, ("descending", "ascending", None), strict=True):
        browser.execute_script("document.querySelectorAll('section th button')[3].click()")
        assert browser.execute_script(first) == rows
        head = (
            "return document.querySelectorAll('section th button')[3].parentElement.getAttribute('aria-sort')"
        )
        assert browser.execute_script(head) == sort


def test_nothing_is_cut_off_in_print(browser, page):
    size = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.get(page.as_uri())
    widths = "return [...document.querySelectorAll('table')].map(one => one.getBoundingClientRect().right)"
    assert max(browser.execute_script(widths)) <= 718
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(one => one.open)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})


def test_everything_that_is_focused_has_a_name(browser, page):
    browser.get(page.as_uri())
    names = "return [...document.querySelectorAll('button, input, [tabindex]')].map("
    names += "one => one.getAttribute('aria-label') ?? one.textContent.trim())"
    assert all(browser.execute_script(names))


def test_it_follows_the_colours_of_the_system(browser, page):
    colours = []
    for scheme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        browser.get(page.as_uri())
        shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L")
        colours.append(shot.getpixel((2, shot.height - 2)))
    assert colours[0] > 200
    assert colours[1] < 80


def test_a_place_of_a_figure_says_more(browser, tmp_path):
    run = tmp_path / "svm"
    write_run(tmp_path, "svm", {"accuracy": metric(0.75)})
    counts = torch.tensor([[3, 1], [0, 4]])
    figure = plots.confusion_matrix(counts, ["cat", "dog"], images={(0, 1): torch.rand(1, 3, 48, 48)})
    write_figure(run, "confusion", figure)
    report.write_page(run, report.read_runs(tmp_path, ["svm"])["svm"])
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((run / "index.html").as_uri())
    point = """
const data = JSON.parse(document.querySelector('figure script').textContent);
const image = document.querySelector('.enlarge img'), box = image.getBoundingClientRect();
const [x, y] = data.spots.find(spot => spot[2].startsWith('cat told as dog'));
const [across, down] = [box.left + x * box.width + arguments[0], box.top + y * box.height];
const at = {clientX: across, clientY: down, bubbles: true};
image.dispatchEvent(new PointerEvent('pointermove', {...at, pointerType: 'mouse'}));
const tip = document.querySelector('.tip');
return [tip.textContent, tip.querySelectorAll('span').length, getComputedStyle(tip).display];
"""
    assert browser.execute_script(point, 3) == ["cat told as dog: 1 of 4", 1, "block"]
    assert browser.execute_script(point, 2000) == ["", 0, "none"]
    keys = """
const button = document.querySelector('.enlarge');
button.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
return document.querySelector('.tip').textContent;
"""
    assert browser.execute_script(keys) == "cat told as cat: 3 of 4"
    assert browser.execute_script(keys) == "cat told as dog: 1 of 4"
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, page, scheme):
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert accessibility_faults(browser) == []
    browser.execute_script("document.body.append(Object.assign(document.createElement('img'), {src: 'x'}))")
    assert [fault.split(":")[0] for fault in accessibility_faults(browser)] == ["image-alt"]  # it does look

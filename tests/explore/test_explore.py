"""The explorer over HTTP: it answers, refuses what is no picture, bounds sizes, and keeps nothing."""

import dataclasses
import http.client
import io
import json
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import accessibility_faults
from explorer import PHOTOGRAPHS, drawn_seven, serving
from PIL import Image

from rdfia.explore import app as served
from rdfia.explore.load import load
from rdfia.explore.pictures import MOST_BYTES, as_digit, map_address
from rdfia.generation.cgan import cGANModule
from rdfia.generation.digit_judge import load_judge
from rdfia.generation.gan import GANModule

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4}


@pytest.fixture(scope="module")
def networks():
    found = load(None, (), 100, None, None, None)
    torch.manual_seed(0)  # some weights make images that are alike to 8 bits
    return dataclasses.replace(found, gan=GANModule(**SMALL).eval(), cgan=cGANModule(**SMALL).eval())


@pytest.fixture(scope="module")
def explorer(networks):
    with serving(networks) as port:
        yield port


@pytest.fixture(scope="module")
def bare_explorer(networks):
    with serving(dataclasses.replace(networks, gan=None, cgan=None)) as port:
        yield port


def ask(port, method, address, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, address, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    kind = answer.getheader("content-type", "")
    return answer.status, json.loads(content) if "json" in kind else content.decode(), answer


def send(port, address, content, kind="image/png"):
    return ask(port, "POST", address, content, **{"Content-Type": kind})[:2]


def size_of(address):
    import base64

    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).size


def png_that_claims(width, height):
    """Return a PNG of a few bytes that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_photograph_is_named_explained_and_fooled(explorer):
    content = (PHOTOGRAPHS / "flower.jpg").read_bytes()
    status, found = send(explorer, "/photograph/look", content, "image/jpeg")
    assert status == 200
    shares = [one["share"] for one in found["classes"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1 + 1e-6
    assert [size_of(address) for address in found["maps"].values()] == [(224, 224)] * 3
    assert "Grad-CAM at fire9" in found["maps"]
    status, fooled = send(explorer, "/photograph/fool", content, "image/jpeg")
    assert status == 200
    assert (fooled["before"], fooled["wanted"]) == tuple(one["name"] for one in found["classes"][:2])
    assert fooled["success"] == (fooled["after"] == fooled["wanted"])
    assert fooled["l2"] <= 0.2 * fooled["steps"] + 1e-2 * 224  # rounding to 8 bits moves it, too
    status, near = send(explorer, "/photograph/nearest", content, "image/jpeg")
    assert near["of"] == len(list(PHOTOGRAPHS.iterdir())) + 3
    assert near["nearest"][0]["name"] == "photographs/flower.jpg"
    assert near["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-4)
    assert near["nearest"][1]["cosine"] < 0.999


def test_a_digit_is_read_and_its_style_is_asked_for(explorer):
    status, found = send(explorer, "/digit/read", drawn_seven())
    assert status == 200
    assert int(np.argmax(found["shares"])) == 7
    assert size_of(found["given"]) == size_of(found["map"]) == (32, 32)
    status, style = send(explorer, "/digit/style", drawn_seven())
    assert status == 200
    assert style["read_as"] == 7
    assert len(style["digits"]) == 10
    assert style["nearest"] == style["digits"][7]


def test_a_walk_begins_and_ends_at_its_latents(explorer):
    status, there, _ = ask(explorer, "GET", "/walk?first=3&second=5")
    assert status == 200
    _, back, _ = ask(explorer, "GET", "/walk?first=5&second=3")
    assert (there["frames"][0], there["frames"][-1]) == (back["frames"][-1], back["frames"][0])
    assert len(set(there["frames"])) == len(there["frames"])
    for asked in ("first=-1&second=5", "first=1000&second=5", "first=a&second=5", "first=1"):
        status, said, _ = ask(explorer, "GET", f"/walk?{asked}")
        assert (status, list(said)) == (422, ["error"]), asked


def test_what_is_no_picture_is_refused_in_a_sentence(explorer):
    for content, kind, why in (
        (b"not a picture", "text/plain", "send a picture"),
        (b"not a picture", "image/png", "this file is not a readable picture"),
        (b"", "image/png", "this file is not a readable picture"),
        (png_that_claims(60_000, 60_000), "image/png", "this file has more than 50,000,000 pixels"),
        (png_that_claims(2_000, 2_000), "image/png", "this file is not a readable picture"),
        (drawn_seven()[:200], "image/png", "this file is not a readable picture"),
        (bytes(MOST_BYTES + 1), "image/png", "more than 20,000,000 bytes"),
    ):
        for address in ("/photograph/look", "/digit/read"):
            status, said = send(explorer, address, content, kind)
            assert status == 400
            assert why in said["error"], (kind, said)
            assert "object at" not in said["error"]
    black = io.BytesIO()
    Image.new("L", (280, 280)).save(black, "png")
    status, said = send(explorer, "/digit/read", black.getvalue())
    assert (status, said["error"]) == (400, "nothing is drawn; draw a digit, white on black")
    assert send(explorer, "/photograph/other", drawn_seven())[0] == 404
    assert ask(explorer, "GET", "/page.py")[0] == 404
    assert ask(explorer, "GET", "/nothing")[:2] == (404, {"error": "Not Found"})
    assert ask(explorer, "GET", "/photograph/look")[:2] == (405, {"error": "Method Not Allowed"})


def test_fifty_at_once_are_answered(explorer):
    content = drawn_seven()
    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(lambda _: send(explorer, "/digit/read", content), range(50)))
    assert {status for status, _ in found} == {200}
    assert len({json.dumps(said) for _, said in found}) == 1


def test_who_asks_when_too_many_wait_is_put_off(explorer, monkeypatch):
    monkeypatch.setattr(served, "MOST_WAITING", 2)
    photograph = (PHOTOGRAPHS / "flower.jpg").read_bytes()
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda _: send(explorer, "/photograph/look", photograph), range(12)))
    kinds = {status for status, _ in found}
    assert kinds == {200, 503}
    assert next(said for status, said in found if status == 503)["error"].endswith("ask again")
    assert send(explorer, "/photograph/look", photograph)[0] == 200


def test_it_answers_its_own_page_alone(explorer):
    status, page, answer = ask(explorer, "GET", "/")
    assert status == 200
    assert "rdfia explorer" in page
    assert "default-src 'self'" in answer.getheader("content-security-policy")
    assert answer.getheader("cache-control") == "no-store"
    assert ask(explorer, "GET", "/", None, Host="elsewhere.example")[0] == 400


def test_digits_are_centred_as_mnist_has_them():
    with Image.open(io.BytesIO(drawn_seven())) as file:
        drawing = np.asarray(file.convert("L"))
    digit = as_digit(drawing)
    moved = as_digit(np.roll(drawing, (30, -40), (0, 1)))
    assert torch.equal(digit, moved)
    rows = torch.arange(32.0)[:, None].expand(32, 32)
    assert float((rows * digit[0, 0]).sum() / digit.sum()) == pytest.approx(15.5, abs=0.6)
    assert int((digit[0, 0].sum(1) > 0).sum()) == 20
    assert digit[0, 0, :2].sum() == digit[0, 0, -2:].sum() == 0
    assert int(load_judge()(digit).argmax()) == 7


def test_margins_are_not_called_probabilities(networks):
    class Margins(torch.nn.Module):
        kind = "margin"

    own = dataclasses.replace(networks.photographs, network=Margins())
    assert own.measure == "the softmax of margins, which are no probabilities"


def test_a_map_without_any_value_is_black():
    assert size_of(map_address(torch.zeros(8, 8))) == (8, 8)


def test_the_script_says_what_is_lacking_in_a_line(tmp_path, call_script):
    for flags, why in (
        (["--gan", str(tmp_path / "none")], "none does not exist"),
        (["--pictures", str(tmp_path / "none")], "none"),
        (["--port", "70000"], "--port is from 0 to 65535"),
    ):
        ended = call_script("explore.py", *flags, cwd=tmp_path)
        assert ended.returncode == 2
        assert why in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr


def test_without_a_generator_its_part_says_which_command_trains_one(bare_explorer):
    status, about, _ = ask(bare_explorer, "GET", "/about")
    assert status == 200
    assert "train_gan.py" in about["gan"]
    assert about["measure"] == "probabilities"
    assert ask(bare_explorer, "GET", "/walk?first=0&second=1")[0] == 404
    status, said = send(bare_explorer, "/digit/style", drawn_seven())
    assert (status, "train_cgan.py" in said["error"]) == (404, True)


def test_nothing_is_kept(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        send(explorer, "/photograph/look", (PHOTOGRAPHS / "china.jpg").read_bytes(), "image/jpeg")[0] == 200
    )
    assert list(Path(tmp_path).iterdir()) == []


def wait_for(browser, what, seconds=30):
    """Run a script until it gives something; return that and the seconds it took."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        if found := browser.execute_script(f"return {what}"):
            return found, time.perf_counter() - started
        time.sleep(0.02)
    raise AssertionError(f"{what} stays false; the page says: {browser.execute_script(SAID)}")


SAID = "return [...document.querySelectorAll('.error')].map(one => one.textContent).join(' | ')"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1400])
def test_its_five_paths_in_a_browser(browser, explorer, tmp_path, width):
    from selenium.webdriver.common.by import By

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(f"http://127.0.0.1:{explorer}/")
    wait_for(browser, "document.getElementById('network').textContent")
    browser.find_element(By.ID, "file").send_keys(str(PHOTOGRAPHS / "flower.jpg"))
    seconds = {}
    _, seconds["look"] = wait_for(browser, "document.querySelectorAll('#maps img').length === 3")
    assert browser.execute_script("return document.querySelectorAll('#classes li').length") == 5
    for button, there in (
        ("fool", "document.querySelectorAll('#fooled img').length === 3"),
        ("nearest", "document.querySelectorAll('#neighbours img').length === 4"),
    ):
        browser.execute_script(f"document.getElementById('{button}').click()")
        _, seconds[button] = wait_for(browser, there)
    assert "becomes" in browser.find_element(By.ID, "fooled").text
    digit = tmp_path / "seven.png"
    digit.write_bytes(drawn_seven())
    browser.find_element(By.ID, "digit-file").send_keys(str(digit))
    lit = "pen.getImageData(140, 190, 1, 1).data[0] + pen.getImageData(150, 70, 1, 1).data[0] > 300"
    wait_for(browser, lit)
    browser.execute_script("document.getElementById('read').click()")
    said, seconds["read"] = wait_for(browser, "document.querySelector('#digit-answer li')?.textContent")
    assert said.startswith("7: ")
    browser.execute_script("document.getElementById('style').click()")
    _, seconds["style"] = wait_for(browser, "document.querySelectorAll('.digits img').length === 10")
    browser.execute_script("document.getElementById('walk').click()")
    first, seconds["walk"] = wait_for(browser, "document.getElementById('frame').src.slice(-200)")
    slide = (
        "const one = document.getElementById('way'); one.value = 12; one.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(slide)
    assert browser.execute_script("return document.getElementById('frame').src.slice(-200)") != first
    assert "image 13 of 25" in browser.execute_script("return document.getElementById('frame').alt")
    # What was asked of one photograph is no answer for the next.
    browser.execute_script("document.getElementById('fool').click()")
    browser.find_element(By.ID, "file").send_keys(str(PHOTOGRAPHS / "china.jpg"))
    wait_for(browser, "!document.getElementById('photograph-answer').hidden")
    time.sleep(3)
    assert browser.execute_script("return document.getElementById('fooled').textContent") == ""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return [...document.images].every(one => !one.src || one.naturalWidth)")
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    assert accessibility_faults(browser) == []
    print({path: round(took, 2) for path, took in seconds.items()})


@pytest.mark.browser
def test_one_draws_on_the_field_and_errors_stand_beside_it(browser, explorer, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(f"http://127.0.0.1:{explorer}/")
    browser.execute_script("document.getElementById('read').click()")
    said, _ = wait_for(browser, "document.getElementById('digit-error').textContent")
    assert said == "nothing is drawn; draw a digit, white on black"
    field = browser.find_element(By.ID, "canvas")
    hand = ActionChains(browser, duration=20).move_to_element_with_offset(field, 0, -90).click_and_hold()
    for _ in range(9):
        hand = hand.move_by_offset(0, 20)
    hand.release().perform()
    browser.execute_script("document.getElementById('read').click()")
    read, _ = wait_for(browser, "document.querySelector('#digit-answer li')?.textContent")
    assert read.startswith("1: ")
    tall = Image.new("L", (60, 300))
    tall.paste(255, (26, 20, 34, 280))  # a stroke of 8 x 260
    tall.save(tmp_path / "tall.png")
    browser.find_element(By.ID, "digit-file").send_keys(str(tmp_path / "tall.png"))
    line = "[...pen.getImageData(0, 140, 280, 1).data]"
    row = f"{line}.filter((one, place) => place % 4 === 0 && one > 100).length"
    wait_for(browser, f"{row} > 0 && {row} < 12")  # as narrow as it is
    assert browser.execute_script("return document.getElementById('digit-answer').textContent") == ""
    text = tmp_path / "text.png"
    text.write_text("no picture")
    browser.find_element(By.ID, "file").send_keys(str(text))
    said, _ = wait_for(browser, "document.getElementById('photograph-error').textContent")
    assert said.startswith("this file is not a readable picture")
    assert browser.execute_script("return document.getElementById('photograph-answer').hidden")

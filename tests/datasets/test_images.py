"""Pictures are decoded to what a viewer shows, and what is not read is counted and named."""

import numpy as np
import pytest
from conftest import write_picture
from PIL import Image

from datamodules import images
from datamodules.imagenet_samples import ImageNetSamplesDataModule, with_classes
from datamodules.images import decode, decode_all
from datamodules.listing import find_pictures
from datamodules.scene15 import CLASSES, Scene15DataModule


@pytest.fixture
def picture() -> Image.Image:
    """A smooth picture without any symmetry."""
    y, x = np.mgrid[0:40, 0:60]
    pixels = np.stack([4 * x, 6 * y, 255 - 2 * (x + y)], -1).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


# How a camera held in each of the eight ways stores what is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", [1, *TURNS])
def test_a_phones_photograph_is_upright(tmp_path, picture, orientation):
    stored = picture.transpose(TURNS[orientation]) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "phone.png", mode="RGB"), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_and_floats_are_scaled_by_their_range(tmp_path, picture, mode):
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "share.tif")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "bytes.tif")
    lowest, highest = int(grey.min()), int(grey.max())
    stretched = (grey.astype(np.float64) - lowest) / (highest - lowest) * 255
    Image.fromarray(grey.astype(np.float32) * 30 - 900).save(tmp_path / "counts.tif")
    Image.fromarray(np.full((5, 5), np.nan, np.float32)).save(tmp_path / "nan.tif")
    for name in ("deep.png", "deep.tif", "share.tif", "bytes.tif"):
        found = decode(tmp_path / name, mode=mode)
        assert np.abs((found if mode == "L" else found[..., 1]).astype(int) - grey).max() <= 1, name
    found = decode(tmp_path / "counts.tif", mode=mode)
    assert np.abs((found if mode == "L" else found[..., 0]) - stretched).max() <= 1
    assert decode(tmp_path / "nan.tif", mode=mode).max() == 0


def test_three_files_that_are_alike_on_screen_are_decoded_alike(tmp_path, picture):
    """Transparency hides what a file holds under it, and white shows through."""
    hole = np.zeros((40, 60), bool)
    hole[10:30, 10:40] = True
    expected = np.asarray(picture).copy()
    expected[hole] = 255
    for name, hidden in (("black", 0), ("noise", 90), ("white", 255)):
        pixels = np.dstack([np.asarray(picture).copy(), np.where(hole, 0, 255).astype(np.uint8)])
        pixels[..., :3][hole] = hidden
        Image.fromarray(pixels, "RGBA").save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(decode(tmp_path / f"{name}.png", mode="RGB"), expected)
    grey = Image.fromarray(np.dstack([np.full((8, 8), 7, np.uint8), np.zeros((8, 8), np.uint8)]), "LA")
    grey.save(tmp_path / "grey.png")
    assert (decode(tmp_path / "grey.png", mode="L") == 255).all()
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    half.save(tmp_path / "half.webp", lossless=True)
    assert np.abs(decode(tmp_path / "half.webp", mode="L").astype(int) - 127).max() <= 1


def test_palettes_cmyk_and_animations(tmp_path, picture):
    flat = picture.quantize(256)
    flat.save(tmp_path / "flat.png")
    np.testing.assert_array_equal(decode(tmp_path / "flat.png", mode="RGB"), np.asarray(flat.convert("RGB")))
    clear = picture.quantize(16)
    clear.info["transparency"] = int(np.asarray(clear)[0, 0])
    clear.save(tmp_path / "clear.gif", transparency=int(np.asarray(clear)[0, 0]))
    assert decode(tmp_path / "clear.gif", mode="RGB")[0, 0].tolist() == [255, 255, 255]
    picture.convert("CMYK").save(tmp_path / "print.tif")
    assert np.abs(decode(tmp_path / "print.tif", mode="RGB").astype(int) - np.asarray(picture)).max() <= 2
    other = Image.new("RGB", picture.size)
    picture.save(tmp_path / "film.webp", save_all=True, append_images=[other, other], lossless=True)
    np.testing.assert_array_equal(decode(tmp_path / "film.webp", mode="RGB"), np.asarray(picture))


def test_too_many_pixels_are_one_line(tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "large.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large.png has 60 x 40 pixels, more than 1,000; make it smaller"):
        decode(tmp_path / "large.png", mode="RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own bound: an error of no usual kind
    with pytest.raises(ValueError, match=r"large.png has more than [0-9,]+ pixels"):
        decode(tmp_path / "large.png", mode="RGB")


def test_many_unreadable_pictures_are_a_count_and_three_names(tmp_path, picture):
    picture.save(tmp_path / "good.png")
    for number in range(7):
        (tmp_path / f"bad{number}.png").write_bytes(b"no picture")
    paths = sorted(tmp_path.iterdir())
    message = r"^7 of 8 pictures cannot be read: .*bad0.*bad1.*bad2.*; and 4 more$"
    with pytest.raises(ValueError, match=message) as error:
        decode_all(paths, mode="RGB", size=8)
    assert "bad3" not in str(error.value)


def test_what_is_no_picture_is_counted_and_litter_is_not_looked_at(tmp_path, picture):
    (tmp_path / "inner" / ".hidden").mkdir(parents=True)
    for name in ("a.JPG", "b.jpeg", "c.Png", "inner/d.WEBP", "e.tiff", "f.bmp", "g.gif"):
        picture.save(tmp_path / name)
    for name in ("notes.txt", "more.TXT", "film.mp4", "README"):
        (tmp_path / name).write_text("x")
    for name in ("._a.jpg", "Thumbs.db", ".DS_Store", "inner/.hidden/h.jpg"):
        (tmp_path / name).write_text("x")
    found = find_pictures(tmp_path)
    assert len(found.pictures) == 7
    assert str(found) == "7 pictures; not read: 1 without a suffix, 1 .mp4, 2 .txt"
    assert len(find_pictures(tmp_path, recursive=False).pictures) == 6


def test_half_a_copy_of_15_scene_is_not_used_without_a_word(tmp_path, picture, capsys):
    """Of .jpg and .JPG only the first were read: 45 + 45 of 90 + 90 images."""
    for part in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "15SceneData" / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                shade = Image.new("L", (20, 20), 10 * number + len(name) + 100 * (part == "test"))
                shade.save(folder / f"{number}.{'jpg' if number % 2 else 'JPG'}")
    (tmp_path / "15SceneData" / "train" / "coast" / "list.txt").write_text("x")
    (tmp_path / "15SceneData" / "train" / "coast" / "._1.jpg").write_text("x")
    scenes = Scene15DataModule(tmp_path, image_size=16)
    scenes.setup()
    assert (scenes.audit.train, scenes.audit.test) == (90, 90)
    said = capsys.readouterr().out
    assert "90 training and 90 test images" in said
    assert "not read in 15SceneData: 1 .txt" in said


def test_a_drawn_split_says_that_it_is_not_the_published_one(tmp_path, capsys):
    for name in CLASSES:
        folder = tmp_path / "15SceneData" / name
        folder.mkdir(parents=True)
        for number in range(104):
            Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    Scene15DataModule(tmp_path, image_size=8).setup()
    assert "split by seed 0, which is not the published one" in capsys.readouterr().out


def test_half_a_split_is_named(tmp_path):
    (tmp_path / "15SceneData" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="expected 15SceneData/test/<class>"):
        Scene15DataModule(tmp_path).setup()
    both = r"15SceneData/\{train,test\}/<class>/\*.jpg, or 15SceneData/<class>"
    with pytest.raises(FileNotFoundError, match=both):
        Scene15DataModule(tmp_path / "15SceneData").setup()


def test_pictures_without_a_synset_are_not_lost_behind_one_that_has_one(tmp_path, picture, capsys):
    for name in ("n02123045_cat.webp", "holiday.jpg", "beach.PNG"):
        picture.save(tmp_path / name)
    named = with_classes(find_pictures(tmp_path).pictures)
    assert [(path.stem, label) for path, label in named] == [
        ("beach", -1),
        ("holiday", -1),
        ("n02123045_cat", 281),
    ]
    samples = ImageNetSamplesDataModule(path=tmp_path, image_size=32)
    samples.setup()
    assert len(samples.data) == 1
    assert "left out: 2 pictures without a synset in their name" in capsys.readouterr().out


def test_linked_folders_are_looked_into_and_broken_links_counted(tmp_path, picture):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    picture.save(tmp_path / "there" / "a.png")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "back").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "here" / "itself").symlink_to("itself")
    found = find_pictures(tmp_path / "here")
    assert str(found) == "1 pictures; not read: 2 broken links"


def test_two_folders_of_one_class_are_named_and_what_is_no_class_is_counted(tmp_path, capsys):
    root = tmp_path / "15SceneData"
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for place in range(104):
            Image.new("L", (8, 8), (number + 15 * place) % 256).save(root / name / f"{place}.png")
    (root / "beach").mkdir()
    (root / "list.txt").write_text("x")
    (root / "bedroom" / "more").mkdir()
    Scene15DataModule(tmp_path, image_size=8).setup()
    said = capsys.readouterr().out
    assert "1 .txt beside the classes, 1 folders, 1 folders that are no class" in said
    (root / "MITcoast").mkdir()
    with pytest.raises(ValueError, match="two folders of class 'coast', MITcoast and coast; join them"):
        Scene15DataModule(tmp_path, image_size=8).setup()


@pytest.mark.parametrize("how", [{}, {"crop": 28}, {"pad": True}])
@pytest.mark.parametrize("size", [(90, 61), (61, 90), (20, 31), (400, 3)])
def test_fast_resizing_differs_by_a_grey_level_at_most(tmp_path, how, size):
    y, x = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([127 + 120 * np.sin((x + k * y) / 9) for k in (1, 2, 3)], 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    exact = decode(tmp_path / "a.jpg", mode="RGB", size=32, **how)
    fast = decode(tmp_path / "a.jpg", mode="RGB", size=32, fast=True, **how)
    assert exact.shape == fast.shape
    assert np.abs(exact.astype(int) - fast).max() <= 1


def test_what_is_no_plain_jpeg_is_decoded_as_ever(tmp_path):
    write_picture(tmp_path / "plain.jpg", (40, 30), 0)
    picture = Image.open(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(tmp_path / "print.jpg")
    picture.convert("L").save(tmp_path / "grey.jpg")
    picture.save(tmp_path / "other.png")
    for name in ("turned.jpg", "print.jpg", "grey.jpg", "other.png"):
        for mode in ("L", "RGB"):
            exact = decode(tmp_path / name, mode=mode, size=16)
            assert np.array_equal(decode(tmp_path / name, mode=mode, size=16, fast=True), exact)
    content = (tmp_path / "plain.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.jpg is not a readable picture .*truncated"):
        decode(tmp_path / "cut.jpg", mode="RGB", size=16, fast=True)

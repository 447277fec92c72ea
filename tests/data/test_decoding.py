"""Decoding JPEGs: the same bits as Pillow's; at a part of the size, the same sizes and boxes and nearly the pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from detres.data import decoding
from detres.data.decoding import MARGIN, largest_reduction, reduced_hw, reduction_of
from detres.data.image_io import ImageError, read_image, read_image_for
from detres.data.transforms import DetectionTransforms
from tests.data.test_image_io import _claiming

RESIZING_STEPS: list[dict[str, Any]] = [
    {"type": "resize_shortest", "short": [40, 60, 80], "max": 110},
    {"type": "resize", "height": 50, "width": 70},
    {"type": "large_scale_jitter", "size": 96, "min_scale": 0.3, "max_scale": 1.0},
    {"type": "random_resized_crop", "size": 32, "scale": [0.4, 1.0]},
    {"type": "random_resize_shortest", "min": 40, "max": 80},
]


def _photo(height: int, width: int) -> np.ndarray:
    """Something smooth with edges, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width] / 40.0
    waves = [np.sin(x * 2 + 1) * np.cos(y), np.sin(x + y), np.cos(x - 2 * y)]
    picture = np.stack([128 + 90 * wave for wave in waves], axis=2)
    picture[height // 3 : height // 2, width // 4 : width // 2] = (230, 20, 90)
    return picture.astype(np.uint8)


def _save(path: Path, height: int, width: int, **options: Any) -> Path:
    Image.fromarray(_photo(height, width)).save(path, quality=92, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 9), (33, 50)])
def test_the_same_bits_as_pillow(tmp_path: Path, size_hw: tuple[int, int], options: dict[str, Any]) -> None:
    path = _save(tmp_path / "a.jpg", *size_hw, **options)
    image = read_image(path, size_hw)
    assert (image == np.array(Image.open(path))).all() and image.flags.writeable and image.flags.c_contiguous
    Image.fromarray(_photo(*size_hw)).convert("L").save(tmp_path / "l.jpg")
    assert (read_image(tmp_path / "l.jpg") == np.array(Image.open(tmp_path / "l.jpg").convert("RGB"))).all()


def test_without_the_decoder_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.jpg", 33, 50)
    with_it = read_image(path)
    decoding._jpeg_decoder.cache_clear()
    with monkeypatch.context() as patched:
        patched.delattr("torchvision.io.decode_jpeg")
        assert (read_image(path) == with_it).all() and decoding._jpeg_decoder() is None
    decoding._jpeg_decoder.cache_clear()


def test_the_same_bits_as_pillow_on_photographs(real_data: Path) -> None:
    folders = ("coco/val2017", "VOCdevkit/VOC2007/JPEGImages", "bccd/VOC2007/JPEGImages", "imagenet-sample")
    files = [file for folder in folders for file in sorted((real_data / folder).rglob("*.[jJ][pP]*"))[:12]]
    assert len(files) >= 36
    for file in files:
        whole = np.array(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        assert (read_image(file) == whole).all(), file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / f"a.{suffix}", 24, 40, exif=exif)
    assert (read_image(path) == np.array(ImageOps.exif_transpose(Image.open(path)))).all()


def test_damaged_jpegs_are_told_of_as_by_pillow(tmp_path: Path) -> None:
    whole = _save(tmp_path / "a.jpg", 64, 96).read_bytes()
    generator, path = np.random.default_rng(2), tmp_path / "b.jpg"
    for number in range(80):
        damaged = bytearray(whole if number % 4 else whole[: int(generator.integers(2, len(whole)))])
        for place in generator.integers(0, len(damaged), number % 3):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            with Image.open(path) as image:
                expected = np.array(image.convert("RGB"))
        except Exception:
            continue  # Pillow refuses it; what torchvision makes of it is as good as anything
        assert read_image(path).shape == ImageOps.exif_transpose(Image.open(path)).size[::-1] + (3,)
        assert expected.ndim == 3


@pytest.mark.parametrize("reduced", [False, True])
def test_truncated_files_are_errors(tmp_path: Path, reduced: bool) -> None:
    path = _save(tmp_path / "a.jpg", 200, 300)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=r"a\.jpg.*(truncated|damaged).*fetch"):
        read_image_for(path, None, (lambda _: (20, 30)) if reduced else None)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_huge_image_is_refused_however_it_would_be_reduced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(_claiming(kind, 20_000, 20_000))
    with pytest.raises(ImageError, match=r"400000000 pixels are more than the limit"):
        read_image_for(path, None, lambda _: (100, 100))


def test_which_part_is_decoded() -> None:
    assert MARGIN == 1.5
    assert [largest_reduction((600, 900), (need, need)) for need in (401, 200, 199, 100, 99, 50, 49)] == [
        1,
        2,
        2,
        4,
        4,
        8,
        8,
    ]
    assert largest_reduction((3, 5000), (1, 1)) == 2, "a row is left"
    for size_hw in [(1, 1), (2, 9), (17, 33), (801, 640)]:
        for reduction in (1, 2, 4, 8):
            if min(size_hw) >= reduction:
                assert reduction_of((*reduced_hw(size_hw, reduction), 3), size_hw) == reduction
    with pytest.raises(AssertionError, match="no reduction of"):
        reduction_of((10, 11), (40, 40))


def test_what_is_read_is_never_smaller_than_needed(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.jpg", 331, 250)
    for needed, expected in [
        ((300, 200), (331, 250)),
        ((110, 83), (166, 125)),
        ((40, 40), (83, 63)),
        (None, (331, 250)),
    ]:
        image = read_image_for(path, (331, 250), lambda size_hw, needed=needed: needed)  # type: ignore[misc]
        assert image.pixels.shape == (*expected, 3) and image.size_hw == (331, 250)
        assert image.pixels.flags.writeable
    Image.fromarray(_photo(331, 250)).save(tmp_path / "a.png")
    assert read_image_for(tmp_path / "a.png", None, lambda _: (10, 10)).pixels.shape == (331, 250, 3)


@pytest.mark.parametrize(("size_hw", "reduction"), [((320, 480), 4), ((318, 480), 1)])
def test_turned_images_are_reduced_where_that_is_exact(
    tmp_path: Path, size_hw: tuple[int, int], reduction: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _save(tmp_path / "a.jpg", *size_hw, exif=exif)
    image = read_image_for(path, None, lambda _: (60, 40))
    assert image.size_hw == size_hw[::-1] and image.pixels.shape[:2] == (480 // reduction, size_hw[0] // reduction)
    whole = read_image(path).astype(int)
    middle = (
        image.pixels[::2, ::2].astype(int) - whole[reduction // 2 :: 2 * reduction, reduction // 2 :: 2 * reduction]
    )
    assert np.abs(middle).mean() < 8, "turned the same way"


@pytest.mark.parametrize("size_hw", [(480, 640), (427, 639), (1001, 335)])
@pytest.mark.parametrize("step", RESIZING_STEPS, ids=lambda step: step["type"])
def test_reduced_images_give_the_same_boxes_and_nearly_the_same_pixels(
    tmp_path: Path, step: dict[str, Any], size_hw: tuple[int, int]
) -> None:
    path = _save(tmp_path / "a.jpg", *size_hw)
    transforms = DetectionTransforms([step, {"type": "horizontal_flip"}])
    generator = np.random.default_rng(0)
    corners = np.sort(generator.uniform(0, 1, (20, 2, 2)), axis=1).reshape(-1, 4) * np.array([*size_hw[::-1]] * 2)
    boxes = corners.astype(np.float32) if step["type"] != "random_resize_shortest" else np.zeros((0, 4), np.float32)
    labels, ignore, reductions = np.arange(len(boxes)), np.zeros(len(boxes), bool), set()
    for seed in range(8):
        read = read_image_for(path, None, lambda hw, seed=seed: transforms.needed_hw(hw, seed))  # type: ignore[misc]
        reductions.add(reduction_of(read.pixels.shape, size_hw))
        whole = transforms(read_image(path), boxes, labels, ignore, seed)
        made = transforms(read.pixels, boxes, labels, ignore, seed, read.size_hw)
        assert made.image.shape == whole.image.shape and made.image.flags.c_contiguous
        assert (made.boxes_xyxy == whole.boxes_xyxy).all() and (made.labels == whole.labels).all()
        difference = np.abs(made.image.astype(int) - whole.image)
        assert difference.mean() < 2.5 and np.percentile(difference, 99) < 30
    assert max(reductions) > 1


def test_a_side_that_is_no_multiple_does_not_move_the_image(tmp_path: Path) -> None:
    """On a ramp a shift by a pixel of the whole image would show as 0.4 grey levels at the far end."""
    ramp = np.broadcast_to((np.arange(637) * 0.4)[None, :, None], (637, 637, 3)).round().astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    steps = DetectionTransforms([{"type": "resize", "height": 53, "width": 53}])
    nothing = np.zeros(0)
    read = read_image_for(tmp_path / "a.jpg", None, lambda _: (53, 53))
    assert reduction_of(read.pixels.shape, (637, 637)) == 8
    made = steps(read.pixels, nothing, nothing, nothing, 0, read.size_hw).image[:, 2:-2].astype(float)
    whole = steps(read_image(tmp_path / "a.jpg"), nothing, nothing, nothing, 0).image[:, 2:-2].astype(float)
    assert abs((made - whole)[:, -10:].mean()) < 0.3


def test_a_list_that_does_not_begin_by_resizing_wants_the_whole_image() -> None:
    flip, resize = {"type": "horizontal_flip"}, {"type": "resize", "height": 8, "width": 8}
    assert DetectionTransforms([]).needed_hw((99, 99), 0) is None
    assert DetectionTransforms([flip, resize]).needed_hw((99, 99), 0) is None
    assert DetectionTransforms([resize, flip]).needed_hw((99, 99), 0) == (8, 8)


@pytest.mark.parametrize("short", [53, 100, 150])
def test_the_margin_keeps_photographs_nearer_than_another_filter_would(real_data: Path, short: int) -> None:
    """The figures of detres.data.decoding.MARGIN: grey levels of 255, against resizing the whole image."""
    steps, nothing = DetectionTransforms([{"type": "resize_shortest", "short": [short]}]), np.zeros(0)
    of_margin, of_bicubic, worst = [], [], 0
    for file in sorted((real_data / "coco" / "val2017").glob("*.jpg"))[:40]:
        read = read_image_for(file, None, lambda hw: steps.needed_hw(hw, 0))
        whole = read_image(file)
        if read.pixels.shape == whole.shape:
            continue
        expected = steps(whole, nothing, nothing, nothing, 0).image.astype(int)
        made = steps(read.pixels, nothing, nothing, nothing, 0, read.size_hw).image
        bicubic = np.asarray(Image.fromarray(whole).resize(made.shape[1::-1], Image.Resampling.BICUBIC))
        of_margin.append(np.abs(made - expected).mean())
        of_bicubic.append(np.abs(bicubic - expected).mean())
        worst = max(worst, np.abs(made - expected).max())
    assert len(of_margin) > 10
    assert np.mean(of_margin) < 1 < np.mean(of_bicubic) and max(of_margin) < 2.1 and worst < 30

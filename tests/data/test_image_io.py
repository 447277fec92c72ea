"""Every kind of image file comes out as RGB uint8, or as one clear error."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detres.data import image_io
from detres.data.image_io import ImageError, read_image, read_size_hw


def _gradient(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    with pytest.raises(ImageError, match=r"a\.jpg.*empty"):
        read_image(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.jpg.*does not exist; check the path"):
        read_image(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_rgb_is_exact(tmp_path: Path) -> None:
    Image.fromarray(_gradient()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", (40, 60))
    assert (image == _gradient()).all() and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=rf"a\.{suffix}.*(truncated|damaged).*fetch"):
        read_image(path)


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "a.jpg")


def test_grey_and_palette_and_transparent(tmp_path: Path) -> None:
    grey = Image.fromarray(_gradient()).convert("L")
    rgba = Image.fromarray(np.dstack([_gradient(), np.full((40, 60), 7, np.uint8)]))
    grey.save(tmp_path / "l.png")
    grey.convert("1").save(tmp_path / "1.png")
    grey.convert("LA").save(tmp_path / "la.png")
    grey.convert("P").save(tmp_path / "p.png", transparency=3)
    rgba.save(tmp_path / "rgba.png")
    assert (read_image(tmp_path / "l.png") == np.array(grey)[:, :, None]).all()
    assert set(np.unique(read_image(tmp_path / "1.png"))) <= {0, 255}
    assert (read_image(tmp_path / "la.png") == np.array(grey)[:, :, None]).all()
    assert read_image(tmp_path / "p.png").shape == (40, 60, 3)
    assert (read_image(tmp_path / "rgba.png") == _gradient()).all()


def test_16_bit_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    pixel = read_image(tmp_path / "a.jpg")[4, 4]
    assert pixel[0] > 250 and pixel[1] < 5 and pixel[2] < 5


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating-point"):
        read_image(tmp_path / "a.tif")


def _with_orientation(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_gradient()).save(path, exif=exif)


def test_exif_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _with_orientation(path, 6)  # to be turned by 90 degrees clockwise
    upright = np.rot90(_gradient(), -1)
    assert (read_image(path) == upright).all()
    assert (read_image(path, (60, 40)) == upright).all()
    assert (read_image(path, (40, 60)) == _gradient()).all(), "boxes were drawn on the unrotated image"
    _with_orientation(path, 99)
    assert (read_image(path) == _gradient()).all()


def test_half_turn_is_applied_whatever_the_annotation(tmp_path: Path) -> None:
    _with_orientation(tmp_path / "a.png", 3)
    assert (read_image(tmp_path / "a.png", (40, 60)) == np.rot90(_gradient(), 2)).all()


def test_size_differs_from_annotation(tmp_path: Path) -> None:
    Image.fromarray(_gradient()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"60 x 40.*says 61 x 40"):
        read_image(tmp_path / "a.png", (40, 61))


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_PIXELS", 1000)
    Image.fromarray(_gradient()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="60 x 40 pixels are more than"):
        read_image(tmp_path / "a.png")


def _png(width: int, height: int) -> bytes:
    """A PNG that says so large, and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _claiming(kind: str, width: int, height: int) -> bytes:
    """A tiny image of that format whose header claims another size."""
    if kind == "png":
        return _png(width, height)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    if kind == "jpeg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", width, height)
    else:
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(_claiming(kind, 20_000, 20_000))
    for read in (read_image, read_size_hw):
        with pytest.raises(
            ImageError, match=r"400000000 pixels are more than the limit of 178956970; .* tiles"
        ) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_whole_image_of_20000_by_20000_costs_no_memory(tmp_path: Path) -> None:
    """A decompression bomb: 400 million pixels in 49 kB."""
    rows = zlib.compressobj(9)
    body = b"".join([*(rows.compress(bytes(2501)) for _ in range(20_000)), rows.flush()])
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + body, b"IEND"]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"bomb\.png: 400000000 pixels"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_gradient()).save(buffer, "PNG")
    generator, path = np.random.default_rng(1), tmp_path / "a.png"
    for _ in range(60):
        damaged = bytearray(buffer.getvalue())
        for place in generator.integers(0, len(damaged), 6):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).ndim == 3
        except ImageError as error:
            assert "a.png" in str(error)

"""Detector.predict: every kind of input, batches of mixed sizes, coordinates, and wrong inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detres.api import Detector, choose_device
from detres.data.image_input import to_rgb_array
from detres.structures import Detections, ImageBatch

NAMES = ("red", "green")


class BrightestPixel(nn.Module):
    """Finds one box of 2 x 2 at the brightest pixel of each channel 0 and 1: scores 0.9 and 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batch_sizes: list[int] = []

    def predict(self, images: ImageBatch) -> list[Detections]:
        self.batch_sizes.append(len(images))
        return [self._find(pixels) for pixels in images.pixels]

    def _find(self, pixels: torch.Tensor) -> Detections:
        assert pixels.dtype == torch.uint8 and not self.training
        corners = [divmod(int(plane.argmax()), pixels.shape[2])[::-1] for plane in pixels[:2]]
        boxes = torch.tensor([[x, y, x + 2, y + 2] for x, y in corners], dtype=torch.float32)
        return Detections(boxes * self.scale, torch.tensor([0.9, 0.3]), torch.tensor([0, 1]))


class Twice:
    """Stands in for the transforms: doubles the image."""

    def __call__(self, image: np.ndarray, *rest: Any) -> tuple[Any, ...]:
        assert image.flags["C_CONTIGUOUS"] and [len(r) for r in rest[:3]] == [0, 0, 0]
        return (image.repeat(2, axis=0).repeat(2, axis=1), *rest[:3], 0)


def _image(height: int = 6, width: int = 8, red_xy: tuple[int, int] = (3, 2)) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[red_xy[1], red_xy[0], 0] = 255
    image[0, 0, 1] = 255
    return image


@pytest.fixture
def detector() -> Detector:
    return Detector(BrightestPixel(), NAMES, Twice(), device="cpu")


def test_no_images(detector: Detector) -> None:
    assert detector.predict([]) == []


def test_boxes_come_back_in_pixels_of_the_image_given(detector: Detector) -> None:
    found = detector.predict(_image())
    assert found.boxes_xyxy.tolist() == [[3, 2, 4, 3], [0, 0, 1, 1]]
    assert found.names() == ["red", "green"]
    assert found.image_size_hw == (6, 8)
    assert found.image is not None and found.image.shape == (3, 6, 8) and found.image[0, 2, 3] == 255
    assert not found.boxes_xyxy.requires_grad


def test_every_kind_of_input_gives_the_same(detector: Detector, tmp_path: Path) -> None:
    array, path = _image(), tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [array, path, str(path), tensor, tensor / 255.0, tensor.half() / 255, Image.open(path), np.asarray(array)]
    for found in [*map(detector.predict, kinds), *detector.predict(kinds, batch_size=3)]:
        assert found.boxes_xyxy[0].tolist() == [3, 2, 4, 3]


def test_read_only_arrays_are_copied() -> None:
    given = np.zeros((4, 5, 3), np.uint8)
    assert to_rgb_array(given) is given
    given.setflags(write=False)  # as numpy.asarray(PIL image) is; torch warns of such arrays
    assert to_rgb_array(given).flags.writeable


def test_lists_of_mixed_sizes_go_in_batches(detector: Detector) -> None:
    images = [_image(6, 8), _image(20, 5, red_xy=(1, 19)), _image(3, 40, red_xy=(39, 1))]
    found = detector.predict(images, batch_size=2)
    assert [f.boxes_xyxy[0].tolist() for f in found] == [[3, 2, 4, 3], [1, 19, 2, 20], [39, 1, 40, 2]]
    assert [f.image_size_hw for f in found] == [(6, 8), (20, 5), (3, 40)]
    assert detector.network.batch_sizes == [2, 1]


def test_score_threshold_and_dropping_images(detector: Detector) -> None:
    assert detector.predict(_image(), score_threshold=0.5).names() == ["red"]
    assert len(detector.predict(_image(), score_threshold=1.0)) == 0
    assert detector.predict([_image()], keep_images=False)[0].image is None
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="score_threshold must lie in"):
            detector.predict(_image(), score_threshold=wrong)
    with pytest.raises(ValueError, match="batch_size"):
        detector.predict([], batch_size=0)


def test_a_network_left_in_training_mode_still_predicts(detector: Detector) -> None:
    detector.network.train()
    assert len(detector.predict(_image())) == 2


def test_the_kept_image_is_a_copy(detector: Detector) -> None:
    image = _image()
    found = detector.predict(image)
    image[:] = 7
    assert found.image is not None and found.image.max() == 255


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 9, (9, 9, 9)), ("RGBA", (1, 2, 3, 0), (1, 2, 3)), ("I;16", 65535, (255, 255, 255))],
)
def test_pil_modes(mode: str, value: Any, expected: tuple[int, ...]) -> None:
    assert tuple(to_rgb_array(Image.new(mode, (4, 2), value))[1, 3]) == expected


def test_pil_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_image()).save(tmp_path / "turned.png", exif=exif)
    assert to_rgb_array(Image.open(tmp_path / "turned.png")).shape == (8, 6, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"must be \(H, W, 3\).*got shape \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"got shape \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got shape \(0, 5, 3\)"),
        (np.zeros((4, 5, 3)), "float64"),
        (np.zeros((2, 4, 5, 3), np.uint8), "give a list of them"),
        (torch.zeros(4, 5, 3), "permute"),
        (torch.zeros(1, 3, 4, 5), "give a list of them"),
        (torch.full((3, 4, 5), 200.0), r"0\.\.1, found 200\.\.200"),
        (torch.full((3, 4, 5), float("nan")), "0..1, found nan"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "uint8"),
        ("no/such/image.jpg", "no/such/image.jpg"),
    ],
)
def test_wrong_inputs_are_named(detector: Detector, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector.predict(image)


def test_wrong_types_are_named(detector: Detector) -> None:
    with pytest.raises(TypeError, match="got int"):
        detector.predict(3)
    with pytest.raises(TypeError, match="got NoneType"):
        detector.predict([None])


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="does not exist: torch sees"):
        choose_device("cuda:99")


def test_a_network_of_ones_own_stays_as_it_is(detector: Detector) -> None:
    before = detector.predict(_image())
    after = detector.optimize_for_inference(precision="bfloat16").predict(_image())
    assert torch.equal(after.boxes_xyxy, before.boxes_xyxy) and detector.precision == "float32"


def test_precision_is_checked() -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16"):
        Detector(BrightestPixel(), NAMES, Twice(), device="cpu", precision="int4")
    assert len(Detector(BrightestPixel(), NAMES, Twice(), device="cpu", precision="bfloat16").predict(_image())) == 2

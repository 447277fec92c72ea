"""draw_boxes: nothing to draw, pictures of every kind and size, awkward boxes and names."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from detres.structures import Detections
from detres.structures.drawing import class_color, draw_boxes

BOX = torch.tensor([[10.0, 30, 60, 70]])


def test_no_boxes_leave_a_copy():
    image = Image.new("RGB", (50, 40), (1, 2, 3))
    picture = draw_boxes(image, torch.zeros(0, 4), [], [], [])
    assert picture is not image and picture.tobytes() == image.tobytes()
    assert draw_boxes(np.zeros((40, 50, 3), np.uint8), torch.zeros(0, 4)).size == (50, 40)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((90, 120, 3), np.uint8),
        np.zeros((90, 120), np.uint8),
        np.zeros((90, 120, 1), np.uint8),
        torch.zeros(3, 90, 120, dtype=torch.uint8),
        torch.zeros(1, 90, 120, dtype=torch.uint8),
        Image.new("L", (120, 90)),
        Image.new("RGBA", (120, 90)),
        np.zeros((180, 240, 3), np.uint8)[::2, ::2],
    ],
)
def test_kinds_of_images(image):
    picture = np.asarray(draw_boxes(image, BOX, ["cat"], [0.9], [1]))
    assert picture.shape == (90, 120, 3)
    assert picture[69, 10:60].tolist() == [list(class_color(1))] * 50, "the bottom edge lies inside the box"
    assert not picture[72:].any() and not picture[:, 65:].any(), "nothing is drawn elsewhere"
    assert not np.asarray(image).any(), "the input stays as it was"


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 200), (200, 9), (33, 21)])
def test_tiny_images(size):
    boxes = torch.tensor([[0.0, 0, 200, 200], [-5, -5, 1, 1], [0, 0, 0, 0]])
    assert draw_boxes(Image.new("RGB", size), boxes, ["a long name"] * 3, [0.5] * 3, [0, 1, 2]).size == size


def test_boxes_outside_or_not_finite_are_left_out():
    boxes = torch.tensor([[-50.0, 0, -10, 20], [60, 0, 90, 20], [float("nan"), 0, 5, 5], [9, 9, 3, 3]])
    image = Image.new("RGB", (50, 40))
    assert draw_boxes(image, boxes, ["x"] * 4).tobytes() == image.tobytes()


@pytest.mark.parametrize("name", ["", "größe 猫 🐈", "line\nbreak\t\0", "<b>&amp; $x^2$ \\n", "w" * 5000])
def test_names(name):
    picture = draw_boxes(Image.new("RGB", (120, 90)), BOX, [name], [0.5], [0])
    assert np.asarray(picture).any() and picture.size == (120, 90)


def test_captions_avoid_each_other_and_stay_inside():
    boxes = torch.tensor([[500.0, 300, 639, 470], [505, 302, 639, 470]])
    picture = np.asarray(draw_boxes(Image.new("RGB", (640, 480)), boxes, ["first", "second"], [0.9, 0.8], [0, 1]))
    for label in (0, 1):
        rows = (picture == class_color(label)).all(axis=2).sum(axis=1)
        assert (rows > 40).sum() > 10, "both plates show"


def test_colors_are_distinct():
    colors = [np.array(class_color(label)) for label in range(20)]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colors, 2)) > 20
    assert len({class_color(label) for label in range(90)}) == 90


def test_mismatches_and_other_kinds_are_refused():
    with pytest.raises(ValueError, match="1 boxes and 2 names"):
        draw_boxes(Image.new("RGB", (9, 9)), BOX, ["a", "b"])
    with pytest.raises(TypeError, match="float64, shape"):
        draw_boxes(np.zeros((9, 9, 3)), BOX)
    with pytest.raises(TypeError, match="got a.jpg"):
        draw_boxes("a.jpg", BOX)


def test_small_images_are_enlarged_with_their_boxes() -> None:
    found = Detections(torch.tensor([[8.0, 4, 16, 12]]), torch.ones(1), torch.zeros(1, dtype=torch.int64), ("a",))
    assert found.draw(np.zeros((32, 64, 3), np.uint8)).size == (64, 32), "only where it is asked for"
    picture = found.draw(np.zeros((32, 64, 3), np.uint8), enlarge=True)
    assert picture.size == (192, 96), "three times as large: 160 pixels at least"
    assert np.asarray(picture)[36 - 1, 24:48].any() and not np.asarray(picture)[36:].any()


def test_captions_tell_the_words_of_imagenets_classes() -> None:
    black, box = np.zeros((200, 300, 3), np.uint8), torch.tensor([[50.0, 50, 250, 150]])
    with_id, words = (np.asarray(draw_boxes(black, box, [name], labels=[0])) for name in ("n02123045 tabby", "tabby"))
    assert np.array_equal(with_id, words)
    assert not np.array_equal(np.asarray(draw_boxes(black, box, ["n02123045"], labels=[0])), words)


def test_detections_draw():
    found = Detections(torch.cat([BOX, BOX + 20]), torch.tensor([0.9, 0.2]), torch.tensor([0, 1]), ("a", "b"))
    picture = np.asarray(found.draw(np.zeros((90, 120, 3), np.uint8)))
    assert not picture[80:].any(), "a score below the threshold is not drawn"
    assert np.asarray(found.draw(np.zeros((100, 120, 3), np.uint8), score_threshold=0.1))[80:].any()
    with pytest.raises(ValueError, match="carry no image"):
        found.draw()

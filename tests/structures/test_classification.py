"""Classification: order, names and wrong scores; its picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from detres.structures import Classification
from detres.structures.drawing import class_color, draw_labels

SCORES = torch.tensor([0.1, 0.35, 0.2, 0.35])


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one per class, got shape \(0,\)"):
        Classification(torch.zeros(0))


def test_one_class() -> None:
    only = Classification(torch.ones(1), ("cat",))
    assert (only.label, only.name, only.score, only.top(5)) == (0, "cat", 1.0, [("cat", 1.0)])


def test_the_best_first_and_equal_scores_in_order_of_their_labels() -> None:
    found = Classification(SCORES, ("ant", "bee", "cat", "dog"))
    assert found.top_labels() == [1, 3, 2, 0] and found.top_labels(2) == [1, 3]
    assert (found.label, found.name, found.score) == (1, "bee", pytest.approx(0.35))
    assert found.top(3) == [("bee", pytest.approx(0.35)), ("dog", pytest.approx(0.35)), ("cat", pytest.approx(0.2))]
    assert Classification(SCORES).top(1) == [("class 1", pytest.approx(0.35))]


@pytest.mark.parametrize(
    ("scores", "names", "message"),
    [
        (torch.ones(2, 2), (), r"got shape \(2, 2\)"),
        (torch.ones(2), ("a", "b", "c"), "2 scores and 3 class names"),
        (torch.tensor([0.5, float("nan")]), (), "not finite: the weights are damaged"),
    ],
)
def test_wrong_scores_are_refused(scores: torch.Tensor, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(scores, names)


def test_wrong_numbers_of_classes_to_show_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        Classification(SCORES).top(0)
    with pytest.raises(ValueError, match="carries no image"):
        Classification(SCORES).draw()


def test_the_picture_stays_whole_above_the_labels() -> None:
    pixels = torch.randint(0, 256, (3, 200, 300), dtype=torch.uint8)
    found = Classification(SCORES, ("ant", "bee", "cat", "dog"), (200, 300), pixels)
    drawn = np.asarray(found.draw())
    assert drawn.shape[1] == 300 and (drawn[:200] == pixels.permute(1, 2, 0).numpy()).all()
    strip = drawn[200:]
    line = len(strip) // 4
    for row, (label, score) in enumerate([(1, 0.35), (3, 0.35), (2, 0.2), (0, 0.1)]):
        bar = (strip[row * line : (row + 1) * line] == class_color(label)).all(axis=2).any(axis=0)
        assert bar.tolist() == [column < round(score * 300) for column in range(300)]
    assert found.draw(k=2).size == (300, 200 + 2 * line), "a line for each class that is asked for"
    sure = np.asarray(found.draw(score_threshold=0.3))
    assert sure.shape == drawn.shape, "pictures of one size stay of one size, as videos need"
    assert (sure[200 : 200 + 2 * line] == strip[: 2 * line]).all() and len(np.unique(sure[200 + 2 * line :])) == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (32, 32), (9, 400), (400, 9), (159, 161)])
def test_small_pictures_are_enlarged_by_whole_numbers(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.arange(3 * size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0], 3))
    drawn = draw_labels(image, ["a name that is much longer than the picture is wide " * 4], [0.5])
    factor = next(f for f in range(1, 200) if f * max(size) >= 160)
    assert drawn.width == max(160, factor * size[0])
    left = (drawn.width - factor * size[0]) // 2
    shown = drawn.crop((left, 0, left + factor * size[0], factor * size[1]))
    assert (np.asarray(shown)[::factor, ::factor] == np.asarray(image)).all()
    strip = np.asarray(drawn)[factor * size[1] :]
    assert strip.max() > 200, "the name is written"


def test_no_labels_leave_the_picture_alone() -> None:
    image = Image.new("RGB", (200, 100), (1, 2, 3))
    assert draw_labels(image, [], []).tobytes() == image.tobytes()
    with pytest.raises(ValueError, match="1 names, 2 scores"):
        draw_labels(image, ["a"], [0.5, 0.1])
    with pytest.raises(TypeError, match="expected a uint8 tensor"):
        draw_labels(np.zeros((4, 4)), ["a"], [0.5])
    draw_labels(image, ["line\nbreak", ""], [2.0, -1.0])

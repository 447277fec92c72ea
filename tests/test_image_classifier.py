"""ImageClassifier.predict and detres.load: inputs, batches of mixed sizes, probabilities, and wrong inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import detres
from detres import wiring
from detres.api import Detector, ImageClassifier
from detres.config import config_from_dict, config_to_dict
from detres.engine.checkpoint import save_checkpoint
from detres.structures import ImageBatch

NAMES = ("red", "green", "blue")


class MeanColor(nn.Module):
    """The scores are the mean of each channel inside the image, in tenths."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def predict(self, images: ImageBatch) -> torch.Tensor:
        assert not self.training
        self.batch_sizes.append(len(images))
        return torch.stack(
            [
                pixels[:, :height, :width].float().mean(dim=(1, 2)) / 10
                for pixels, (height, width) in zip(images.pixels, images.sizes_hw.tolist(), strict=True)
            ]
        )


def _halve(image: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return (np.ascontiguousarray(image[::2, ::2]), *rest[:3], 0)


def _plain(color: tuple[int, int, int], height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(MeanColor(), NAMES, _halve, device="cpu")


def test_no_images(classifier: ImageClassifier) -> None:
    assert classifier.predict([]) == []


def test_probabilities_of_one_image(classifier: ImageClassifier) -> None:
    image = _plain((10, 30, 20))
    found = classifier.predict(image)
    odds = np.exp([1.0, 3.0, 2.0])
    np.testing.assert_allclose(found.scores.numpy(), odds / odds.sum(), rtol=1e-6)
    assert [name for name, _ in found.top(2)] == ["green", "blue"]
    assert (found.name, found.label, found.image_size_hw) == ("green", 1, (6, 8))
    image[:] = 7
    assert found.image is not None and found.image[:, 5, 7].tolist() == [10, 30, 20], "the kept image is a copy"
    assert found.draw().width >= 160


def test_every_kind_of_input_gives_the_same(classifier: ImageClassifier, tmp_path: Path) -> None:
    array, path = _plain((10, 30, 20)), tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [array, path, str(path), tensor, tensor / 255.0, Image.open(path)]
    expected = classifier.predict(array).scores
    for found in [*map(classifier.predict, kinds), *classifier.predict(kinds, batch_size=4)]:
        assert torch.equal(found.scores, expected)


def test_lists_of_mixed_sizes_go_in_batches(classifier: ImageClassifier) -> None:
    images = [_plain((90, 0, 0), 6, 8), _plain((0, 90, 0), 20, 5), _plain((0, 0, 90), 3, 40)]
    found = classifier.predict(images, batch_size=2, keep_images=False)
    assert [(one.name, one.image_size_hw, one.image) for one in found] == [
        ("red", (6, 8), None),
        ("green", (20, 5), None),
        ("blue", (3, 40), None),
    ]
    assert classifier.network.batch_sizes == [2, 1]


def test_wrong_inputs_are_named(classifier: ImageClassifier, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        classifier.predict(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match="give a list of them"):
        classifier.predict(np.zeros((2, 4, 5, 3), np.uint8))
    with pytest.raises(TypeError, match="got NoneType"):
        classifier.predict([None])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        classifier.predict([], batch_size=0)
    with pytest.raises(ValueError, match="precision must be one of"):
        ImageClassifier(MeanColor(), NAMES, _halve, device="cpu", precision="int4")


def test_scores_that_are_not_finite_are_refused() -> None:
    class Diverged(nn.Module):
        def predict(self, images: ImageBatch) -> torch.Tensor:
            return torch.full((len(images), 3), float("nan"))

    with pytest.raises(ValueError, match="training has diverged"):
        ImageClassifier(Diverged(), NAMES, _halve, device="cpu").predict(_plain((0, 0, 0)))


def test_training_mode_and_half_precision(classifier: ImageClassifier) -> None:
    classifier.network.train()
    half = ImageClassifier(nn.Module(), NAMES, _halve, device="cpu", precision="bfloat16")
    half.network.predict = lambda images: classifier.network.predict(images).bfloat16()
    classifier.network.eval()
    found = half.predict(_plain((10, 30, 20)))
    assert found.scores.dtype == torch.float32 and float(found.scores.sum()) == pytest.approx(1, abs=1e-6)
    classifier.network.train()
    assert classifier.predict(_plain((10, 30, 20))).name == "green"


def test_load_tells_classifiers_from_detectors(tmp_path: Path) -> None:
    config = config_from_dict(
        {
            "model": {"type": "classifier", "backbone": {"type": "resnet", "depth": 18}},
            "data": {
                "train": {"type": "image_folder", "root": "train"},
                "val": {"type": "image_folder", "root": "val"},
                "eval_transforms": [{"type": "resize_shortest", "short": [40]}, {"type": "center_crop", "size": 32}],
            },
            "train": {
                "batch_size": 1,
                "steps": 1,
                "optimizer": {"type": "sgd", "lr": 0.1},
                "schedule": {"type": "constant"},
            },
            "eval": {"metric": "classification"},
            "output": "run",
        },
        "test",
    )
    model = wiring.build_model(config, 3).eval()
    torch.nn.init.normal_(model.fc.weight)
    state = {"kind": "classifier", "class_names": list(NAMES), "config": config_to_dict(config)}
    save_checkpoint(tmp_path / "c.pt", {**state, "model": model.state_dict(), "ema": None})
    loaded = detres.load(tmp_path / "c.pt", device="cpu")
    assert isinstance(loaded, ImageClassifier) and not isinstance(loaded, Detector)
    assert repr(loaded) == "ImageClassifier(Classifier, 3 classes, cpu)"
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    middle = torch.from_numpy(image[4:36, 14:46].transpose(2, 0, 1).copy())
    expected = model.predict(ImageBatch.from_images([middle])).softmax(dim=1)[0]
    torch.testing.assert_close(loaded.predict(image).scores, expected)

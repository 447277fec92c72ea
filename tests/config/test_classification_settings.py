"""Settings of the classifiers' transforms and of mixing: what is refused, and that defaults are those of the code."""

import inspect
from dataclasses import fields
from typing import Any

import pytest

from detres.classifier import Mixing
from detres.config import ConfigError, load_config
from detres.config import classification_steps as settings
from detres.config.model import MixingSettings
from detres.data.classification_steps import STEPS


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ("{mixup: 0.0, cutmix: 0.0}", "mixup: got 0 with cutmix 0, expected one of them above 0"),
        ("{mixup: -1.0}", "mixup: got -1.0, expected"),
        ("{probability: 2.0}", "probability: got 2.0, expected"),
    ],
)
def test_refused_mixing(mixing: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"model.mixing.{message}"):
        load_config("imagenet_r50.yaml", [f"model.mixing={mixing}"])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: random_resize_shortest, min: 480, max: 256}", "min: got 480, expected at most max"),
        ("{type: pad_and_crop, fill: [0, 0, 300]}", "fill.2: got 300"),
        ("{type: pca_lighting, std: -0.1}", "std: got -0.1"),
        ("{type: color_jitter, hue: 0.6}", "hue: got 0.6"),
        ("{type: rand_augment, magnitude: 31}", "magnitude: got 31"),
        ("{type: random_erasing, scale: [0.1, 1.5]}", r"scale: got \[0.1, 1.5\], expected shares of at most 1"),
        ("{type: random_erasing, ratio: [3.0, 0.3]}", r"ratio: got \[3.0, 0.3\], expected the smaller bound first"),
        ("{type: random_erasing, fill: grey}", "fill: got 'grey', expected a list"),
    ],
)
def test_refused_steps(step: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"data.train_transforms.0.{message}"):
        load_config("imagenet_r50.yaml", [f"data.train_transforms=[{step}]"])


@pytest.mark.parametrize("kind", ["trivial_augment", "rand_augment"])
def test_steps_that_boxes_cannot_follow_are_refused_with_a_detector(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"data.train_transforms.0.type: got '{kind}', expected.*moves boxes"):
        load_config("coco_r50.yaml", [f"data.train_transforms.0={{type: {kind}}}"])


def _defaults(described: Any) -> dict[str, Any]:
    plain = {name: field.default for name, field in described.model_fields.items() if name != "type"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def test_the_settings_defaults_are_the_steps() -> None:
    classes = [value for value in vars(settings).values() if inspect.isclass(value)]
    described = [value for value in classes if "type" in value.__annotations__]
    assert len(described) == len(STEPS)
    for group in described:
        (kind,) = group.model_fields["type"].annotation.__args__
        built = {field.name: field.default for field in fields(STEPS[kind])}
        theirs = {name: list(value) if isinstance(value, tuple) else value for name, value in built.items()}
        assert _defaults(group) | {"min": 0, "max": 0} == theirs | {"min": 0, "max": 0}, kind


def test_the_settings_defaults_are_those_of_mixing() -> None:
    parameters = inspect.signature(Mixing.__init__).parameters
    assert _defaults(MixingSettings) == {name: parameters[name].default for name in MixingSettings.model_fields}


def test_the_modern_recipe_with_its_overrides() -> None:
    adamw = "train.optimizer={type: adamw, lr: 2e-3, weight_decay: 0.05}"
    config = load_config("imagenet_r50.yaml", [adamw, "train.epochs=100", "train.ema.decay=0.9998"]).config
    assert config.train.optimizer.type == "adamw" and config.train.optimizer.norm_weight_decay == 0.0
    assert config.train.epochs == 100

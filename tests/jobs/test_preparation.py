"""What the configuration says about trouble reaches the trainer; by default nothing is tried."""

import pytest

from detres.config import load_config
from detres.config.errors import ConfigError
from detres.jobs.preparation import trainer_settings


def test_by_default_a_run_stops() -> None:
    settings = trainer_settings(load_config("coco_r50.yaml", []).config, 10)
    assert (settings.max_recoveries, settings.recovery_lr_factor) == (0, 1.0)
    assert (settings.split_on_oom, settings.async_checkpoints, settings.keep_checkpoints) == (False, False, 2)


def test_options() -> None:
    options = [
        "train.on_nonfinite={type: recover, lr_factor: 0.25}",
        *("train.on_oom=split", "train.async_checkpoints=true"),
    ]
    settings = trainer_settings(load_config("coco_r50.yaml", options).config, 10)
    assert (settings.max_recoveries, settings.recovery_lr_factor) == (3, 0.25)
    assert settings.split_on_oom and settings.async_checkpoints


@pytest.mark.parametrize("limit", [0, -1])
def test_a_run_cannot_recover_for_ever(limit: int) -> None:
    with pytest.raises(ConfigError, match=r"train\.on_nonfinite\.limit"):
        load_config("coco_r50.yaml", [f"train.on_nonfinite={{type: recover, limit: {limit}}}"])

"""Stand-in for detectron2.config: nodes of known keys, the defaults of those a backbone reads, and lazy calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


class CfgNode(dict[str, Any]):
    """Settings as attributes; a file may only set keys that exist."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def merge_from_file(self, path: str | Path) -> None:
        """Take over the values of a YAML file."""
        self._merge(yaml.safe_load(Path(path).read_text(encoding="utf-8")))

    def _merge(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name not in self:
                raise KeyError(f"Non-existent config key: {name}")
            if isinstance(value, dict):
                self[name]._merge(value)
            else:
                self[name] = value


def get_cfg() -> CfgNode:
    """The defaults, of the keys that concern a backbone."""
    resnets = CfgNode(
        DEPTH=50, OUT_FEATURES=["res4"], NUM_GROUPS=1, NORM="FrozenBN", WIDTH_PER_GROUP=64, STRIDE_IN_1X1=True,
        RES5_DILATION=1, RES2_OUT_CHANNELS=256, STEM_OUT_CHANNELS=64, DEFORM_ON_PER_STAGE=[False] * 4,
        DEFORM_MODULATED=False, DEFORM_NUM_GROUPS=1,
    )  # fmt: skip
    model = CfgNode(
        WEIGHTS="", META_ARCHITECTURE="GeneralizedRCNN", MASK_ON=False,
        PIXEL_MEAN=[103.530, 116.280, 123.675], PIXEL_STD=[1.0, 1.0, 1.0],
        BACKBONE=CfgNode(NAME="build_resnet_backbone", FREEZE_AT=2),
        FPN=CfgNode(IN_FEATURES=[], OUT_CHANNELS=256, NORM="", FUSE_TYPE="sum"),
        RESNETS=resnets,
    )  # fmt: skip
    return CfgNode(VERSION=2, MODEL=model)


class LazyCall:
    """L(callable)(a=1) describes a call, which `instantiate` makes; only keyword arguments."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target

    def __call__(self, **arguments: Any) -> CfgNode:
        return CfgNode(_target_=self.target, **arguments)


def instantiate(description: Any) -> Any:
    """Make a described call, those in its arguments first."""
    if not isinstance(description, CfgNode) or "_target_" not in description:
        return description
    arguments = {name: instantiate(value) for name, value in description.items() if name != "_target_"}
    return description["_target_"](**arguments)

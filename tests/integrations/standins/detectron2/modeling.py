"""Stand-in for detectron2.modeling: the base class of backbones, their registry, and building one by its name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from detectron2.layers import ShapeSpec
from torch import nn


class Backbone(nn.Module, ABC):
    """Base class: whoever derives from it without a `forward` cannot be instantiated."""

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Maps by name."""

    @property
    def size_divisibility(self) -> int:
        """0: any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """No constraints."""
        return {}


class Registry:
    """Builders by the names of their functions; a name may be given once."""

    def __init__(self) -> None:
        self.builders: dict[str, Callable[..., Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.builders

    def register(self, builder: Callable[..., Any]) -> None:
        """Add a builder."""
        assert builder.__name__ not in self.builders, f"{builder.__name__} is registered already"
        self.builders[builder.__name__] = builder

    def get(self, name: str) -> Callable[..., Any]:
        """The builder of that name; KeyError without one."""
        return self.builders[name]


BACKBONE_REGISTRY = Registry()


def build_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> Backbone:
    """What cfg.MODEL.BACKBONE.NAME names."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone)
    return backbone

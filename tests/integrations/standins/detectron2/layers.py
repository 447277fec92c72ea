"""Stand-in for detectron2.layers."""

from typing import NamedTuple


class ShapeSpec(NamedTuple):
    """What is known of a tensor's shape."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None

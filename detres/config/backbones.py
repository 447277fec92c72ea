"""Settings of the backbones."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from detres.config.errors import show_value
from detres.config.fields import ByType, Channels, Layers, NonNegativeFloat, Settings

Norm = Literal["batch", "frozen_batch", "sync_batch", "group", "none"]
Shortcut = Literal["A", "B", "C", "none", "highway"]  # "none" is the plain net


class ResNetSettings(Settings):
    """ResNet, ResNeXt, wide ResNet, plain net (detres.backbones.resnet.ResNet)."""

    type: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    shortcut: Shortcut = "B"
    stride_in_1x1: bool = False  # True: the paper and MSRA; False: torchvision
    groups: Layers = 1
    width_per_group: Channels = 64
    deep_stem: bool = False  # the "D" variant's three 3x3 convs
    avg_pool_shortcut: bool = False  # the "D" variant's downsampling
    norm: Norm = "batch"
    norm_eps: NonNegativeFloat = 1e-5  # torchvision's first COCO weights want 0
    zero_init_last_norm: bool = False
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0  # 1: stem, 2: stem and conv2_x, ...
    dilated_c5: bool = False
    checkpoint_activations: bool = False  # less memory in training, a third more time
    out_features: list[Literal["c2", "c3", "c4", "c5"]] = ["c2", "c3", "c4", "c5"]
    weights: str | None = None  # a detres checkpoint, a state dict in torchvision's names, or torchvision:NAME

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        yield from _rising(self.out_features)
        if self.depth in (18, 34):  # their blocks have no 1x1 convolutions and no groups
            for key, plain in (("groups", 1), ("width_per_group", 64), ("stride_in_1x1", False)):
                if (value := getattr(self, key)) != plain:
                    text = f"expected {show_value(plain)} with depth {self.depth}, which has no bottleneck blocks"
                    yield key, f"got {show_value(value)}, {text}"
        yield from _zero_init_mistakes(self)


class CifarResNetSettings(Settings):
    """The paper's networks for 32x32 images, plain ones included (detres.backbones.cifar_resnet.CifarResNet)."""

    type: Literal["cifar_resnet"]
    depth: Annotated[int, Field(gt=0, le=10_000)] = 20  # 6n + 2
    shortcut: Shortcut = "A"
    norm: Norm = "batch"
    norm_eps: NonNegativeFloat = 1e-5
    zero_init_last_norm: bool = False
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 0
    checkpoint_activations: bool = False
    out_features: list[Literal["c0", "c1", "c2"]] = ["c0", "c1", "c2"]
    weights: str | None = None

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        yield from _rising(self.out_features)
        if self.depth < 8 or self.depth % 6 != 2:
            yield "depth", f"got {self.depth}, expected 6n + 2: 20, 32, 44, 56, 110, 1202 or another such number"
        yield from _zero_init_mistakes(self)


class VGGSettings(Settings):
    """VGG-16, the paper's baseline (detres.backbones.vgg.VGG)."""

    type: Literal["vgg"]
    depth: Literal[11, 13, 16, 19] = 16
    norm: Norm = "none"
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    out_features: list[Literal["c2", "c3", "c4", "c5"]] = ["c5"]
    weights: str | None = None

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        yield from _rising(self.out_features)


def _zero_init_mistakes(settings: "ResNetSettings | CifarResNetSettings") -> Iterator[tuple[str, str]]:
    if settings.zero_init_last_norm and settings.norm in ("frozen_batch", "none"):
        text = f"got true, expected false with norm {settings.norm}, which has no weight that could leave zero"
        yield "zero_init_last_norm", text
    elif settings.zero_init_last_norm and settings.shortcut == "none":
        yield "zero_init_last_norm", "got true, expected false with shortcut none: a plain net would give zeros"


def _rising(out_features: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not out_features or sorted(set(out_features)) != list(out_features):
        yield "out_features", f"got {list(out_features)}, expected at least one, each once, in order"


class OutsideBackbone(Settings):
    """A backbone of the user's: `type: my_package.module:Class`, built as Class(**args)."""

    type: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    args: dict[str, object] = {}
    weights: str | None = None


Backbone = Annotated[ResNetSettings | CifarResNetSettings | VGGSettings | OutsideBackbone, ByType()]

"""The architecture of a configured network, as table 1 of the ResNet paper (arXiv 1512.03385) prints it.

The network is built without memory and run on one image without values: nothing is read, nothing is allocated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from detres.backbones import VGG, CifarResNet, ResNet
from detres.backbones.blocks import BasicBlock, Bottleneck
from detres.classifier import Classifier
from detres.config import Config
from detres.config.backbones import CifarResNetSettings, OutsideBackbone, ResNetSettings
from detres.detector import FasterRCNN, Localizer
from detres.evaluation.metrics import format_rows
from detres.structures import ImageBatch
from detres.wiring import build_model

# Multiply-adds (table 1) and parameters (table 6) as the paper gives them, with 1000 and with 10 classes.
_PAPER_MULTIPLY_ADDS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}
_PAPER_PARAMETERS = {20: 0.27e6, 32: 0.46e6, 44: 0.66e6, 56: 0.85e6, 110: 1.7e6, 1202: 19.4e6}


@dataclass
class Part:
    """One row of the table.

    layers         such as "3 x [1x1, 64; 3x3, 64; 1x1, 256]"
    modules        whose parameters count, and inside which the multiply-adds of the part are made
    output         height and width of the maps that come out, one after the other; empty until it ran
    multiply_adds  None where they depend on the picture
    """

    name: str
    layers: str
    modules: list[nn.Module]
    output: list[tuple[int, ...]] = field(default_factory=list)
    multiply_adds: int | None = 0

    @property
    def parameters(self) -> int:
        """How many numbers there are to learn (or to leave as they are)."""
        return _num_parameters(*self.modules)


@dataclass(frozen=True)
class Architecture:
    """A network's parts, on images of `size_hw`, and a note on the paper's figures where there are any."""

    backbone: str
    parts: list[Part]
    size_hw: tuple[int, int]
    num_classes: int
    note: str = ""

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """Of all parts for which they are known."""
        return sum(part.multiply_adds or 0 for part in self.parts)

    def table(self) -> str:
        """One row per part, and their sums."""
        rows = [
            {
                "part": part.name,
                "layers": part.layers,
                "output": ", ".join(dict.fromkeys("x".join(map(str, size)) for size in part.output)) or "n/a",
                "parameters": f"{part.parameters:,}".rjust(11),
                "multiply-adds": "n/a" if part.multiply_adds is None else f"{part.multiply_adds:,}".rjust(14),
            }
            for part in self.parts
        ]
        total = {"part": "total", "layers": "", "output": "", "parameters": f"{self.parameters:,}".rjust(11)}
        table = format_rows([*rows, total | {"multiply-adds": f"{self.multiply_adds:,}".rjust(14)}])
        height, width = self.size_hw
        where = f"{self.backbone}; one image of {height}x{width} (height x width), {self.num_classes} classes."
        counted = "Counted are the multiply-adds of convolutions and fully connected layers."
        unknown = " n/a: depends on the picture." if any(part.multiply_adds is None for part in self.parts) else ""
        return "\n".join([table, "", f"{where} {counted}{unknown}", *([self.note] if self.note else [])])


def architecture(config: Config, size_hw: Sequence[int] | None = None, num_classes: int | None = None) -> Architecture:
    """The parts of the network that `config.model` describes.

    size_hw      height and width of the image; default: 32 x 32 with a CIFAR ResNet, 224 x 224 with any other
                 classifier or localizer, 800 x 1088 with a detector
    num_classes  default: 10, 1000, 80

    Raises ValueError for sizes that are not positive.
    """
    settings = config.model.backbone
    is_cifar, classifies = isinstance(settings, CifarResNetSettings), config.model.type == "classifier"
    default = ((800, 1088), 80) if config.kind == "detector" else ((32, 32), 10) if is_cifar else ((224, 224), 1000)
    height, width = size_hw or default[0]
    if min(height, width) < 1:
        raise ValueError(f"--size: got {height} {width}, expected a positive height and width")
    num_classes = default[1] if num_classes is None else num_classes
    # A class of the user's may look at values, which the meta device has none of.
    with torch.device("cpu" if isinstance(settings, OutsideBackbone) else "meta"):
        model = build_model(config, num_classes).eval()
        pixels = torch.zeros(1, 3, height, width)
        sizes = torch.tensor([[height, width]])
    images = ImageBatch(pixels, sizes, sizes, torch.zeros_like(sizes[:, 0]))
    parts = _parts(model)
    _run(model, parts, images)
    named = {key: getattr(settings, key) for key in ("depth", "shortcut") if hasattr(settings, key)}
    name = ", ".join([settings.type, *(f"{key} {value}" for key, value in named.items())])
    found = Architecture(name, parts, (height, width), num_classes)
    is_default = classifies and ((height, width), num_classes) == default
    return replace(found, note=_note(settings, found)) if is_default else found


# Parts


def _parts(model: nn.Module) -> list[Part]:
    if isinstance(model, Classifier):
        return [*_backbone_parts(model.backbone), *_classifier_parts(model)]
    if isinstance(model, Localizer):
        return [*_backbone_parts(model.backbone), _localizer_part(model)]
    assert isinstance(model, FasterRCNN), "a model is a classifier or a detector"
    if (fpn := getattr(model.backbone, "fpn", None)) is not None:
        parts = _backbone_parts(model.backbone.get_submodule("body"))
        names = list(fpn.feature_specs)
        parts.append(Part("fpn", f"1x1 and 3x3, {fpn.feature_specs[names[0]].channels}: {', '.join(names)}", [fpn]))
    else:
        parts = _backbone_parts(model.backbone)
    heads = {"rpn": "anchors, objectness, proposals", "roi_heads": "pooled regions, classes, boxes"}
    return parts + [Part(name, text, [model.get_submodule(name)], [], None) for name, text in heads.items()]


def _localizer_part(model: Localizer) -> Part:
    """The head; what it computes depends on which boxes are asked for."""
    per_position = f"{model.head.num_anchors} x {model.num_classes} classes, as many boxes"
    return Part("head", f"{_conv_text(model.head.conv)}; 1x1, {per_position}", [model.head], [], None)


def _classifier_parts(model: Classifier) -> list[Part]:
    last = Part("fc", f"{model.num_classes}-way fc", [model.fc])
    if model.head is None:
        last.layers = f"average pool, {last.layers}"
        return [last]
    layers = [f"{layer.out_features}-d fc" for layer in model.head.modules() if isinstance(layer, nn.Linear)]
    return [Part("head", ", ".join(["pool", *layers]), [model.head]), last]


def _backbone_parts(backbone: nn.Module) -> list[Part]:
    if isinstance(backbone, (ResNet, CifarResNet)):
        stem = Part("conv1", _conv_texts(backbone.conv1), [backbone.conv1, backbone.bn1])
        parts = [Part(f"conv{i}_x", _stage_text(stage), [stage]) for i, stage in enumerate(backbone.stages(), start=2)]
        if isinstance(backbone, ResNet):
            parts[0].layers = f"3x3 max pool, stride 2; {parts[0].layers}"
        return [stem, *parts]
    if isinstance(backbone, VGG):
        stages = [list(stage) for stage in backbone.stages()]
        return [Part(f"conv{i}_x", _plain_text(layers), layers) for i, layers in enumerate(stages, start=1)]
    children = {name: child for name, child in backbone.named_children() if any(True for _ in child.parameters())}
    if sum(map(_num_parameters, children.values())) != _num_parameters(backbone):
        children = {"backbone": backbone}
    return [Part(name, type(child).__name__, [child]) for name, child in children.items()]


def _num_parameters(*modules: nn.Module) -> int:
    return sum({p: p.numel() for module in modules for p in module.parameters()}.values())


def _stage_text(stage: nn.Module) -> str:
    texts = [_conv_texts(block, own=True) for block in stage.children()]
    return " + ".join(f"{len(list(same))} x [{text}]" for text, same in groupby(texts))


def _plain_text(layers: list[nn.Module]) -> str:
    texts = [_conv_text(layer) for layer in layers if isinstance(layer, nn.Conv2d)]
    pool = "2x2 max pool, stride 2; " if isinstance(layers[0], nn.MaxPool2d) else ""
    return pool + ", ".join(f"{len(list(same))} x [{text}]" for text, same in groupby(texts))


def _conv_texts(module: nn.Module, own: bool = False) -> str:
    """The convolutions of a module, of a block without those of its shortcut and gate."""
    if own and isinstance(module, (BasicBlock, Bottleneck)):
        convs = [child for child in module.children() if type(child) is nn.Conv2d]
        return "; ".join(_conv_text(conv, stride=False) for conv in convs)
    return "; ".join(_conv_text(layer) for layer in module.modules() if isinstance(layer, nn.Conv2d))


def _conv_text(conv: nn.Conv2d, stride: bool = True) -> str:
    text = f"{conv.kernel_size[0]}x{conv.kernel_size[1]}, {conv.out_channels}"
    text += f", {conv.groups} groups" if conv.groups > 1 else ""
    text += f", dilation {conv.dilation[0]}" if conv.dilation[0] > 1 else ""
    return text + (f", stride {conv.stride[0]}" if stride and conv.stride[0] > 1 else "")


# Counting


def _run(model: nn.Module, parts: list[Part], images: ImageBatch) -> None:
    """Fill in the parts' outputs and multiply-adds, adding a part for what belongs to none."""
    from torch.utils.flop_counter import FlopCounterMode

    # Pooling by matrices is no layer of the network.
    counter: Any = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: lambda *_, **__: 0})
    counted = [part for part in parts if part.multiply_adds is not None]
    handles = [handle for part in counted for module in part.modules for handle in _watch(module, part, counter)]
    with torch.no_grad(), counter:
        if isinstance(model, Classifier):
            model.logits(images)
        else:
            normalised = model.get_submodule("pixels")(images)
            model.get_submodule("backbone")(normalised)
    for handle in handles:
        handle.remove()
    rest = counter.get_total_flops() // 2 - sum(part.multiply_adds or 0 for part in counted)
    if counted[0].name == "conv1" and not counted[0].output:
        # A convolution that is computed together with its norm is not called as a module: the stem is the rest.
        counted[0].multiply_adds, counted[0].output = rest, _sizes(counted[0].modules[0](images.pixels))
    elif rest:
        parts.append(Part("(other)", "outside these modules", [], multiply_adds=rest))


def _watch(module: nn.Module, part: Part, counter: Any) -> list[Any]:
    """Note what goes on in a module as belonging to a part; returns the handles of the hooks."""
    started = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        started.append(counter.get_total_flops())

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        part.multiply_adds = (part.multiply_adds or 0) + (counter.get_total_flops() - started.pop()) // 2
        part.output = _sizes(output)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _sizes(output: Any) -> list[tuple[int, ...]]:
    """Height and width of the map or maps; (1, 1) for vectors."""
    maps = list(output.values()) if isinstance(output, Mapping) else [output]
    return [tuple(x.shape[2:]) if x.dim() > 2 else (1, 1) for x in maps if isinstance(x, Tensor)]


# The paper's figures


def _note(settings: Any, found: Architecture) -> str:
    """How the counts compare with the paper's, where it prints any for this network."""
    if isinstance(settings, CifarResNetSettings) and settings.depth in _PAPER_PARAMETERS and settings.shortcut == "A":
        paper = _PAPER_PARAMETERS[settings.depth]
        return f"The paper gives {paper / 1e6:g} million parameters (table 6); here {found.parameters / 1e6:.3g}."
    known = isinstance(settings, ResNetSettings) and settings.groups == 1 and settings.width_per_group == 64
    if not known or settings.deep_stem or settings.avg_pool_shortcut or settings.shortcut in ("C", "highway"):
        return ""
    paper, here = _PAPER_MULTIPLY_ADDS[settings.depth], found.multiply_adds
    text = f"The paper gives {paper / 1e9:g}e9 multiply-adds (table 1)"
    text += f"; here {here / 1e9:.2f}e9, {here / paper - 1:+.1%}."
    if settings.depth >= 50 and not settings.stride_in_1x1:
        text += " The paper's bottlenecks stride in their first 1x1 convolution (model.backbone.stride_in_1x1=true)."
    return text

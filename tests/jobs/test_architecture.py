"""The architecture table against the paper, against counts by hand, and as a command."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detres.backbones import FeatureSpec
from detres.config import load_config
from detres.jobs.architecture import Architecture, architecture
from tests.jobs.conftest import run_detres

IMAGENET = "paper/imagenet_resnet50.yaml"


def _architecture(*overrides: str, config: str = IMAGENET, **options: Any) -> Architecture:
    return architecture(load_config(config, overrides).config, **options)


def _resnet(depth: int, shortcut: str = "B", **others: Any) -> str:
    settings = {"depth": depth, "shortcut": shortcut, "stride_in_1x1": "false", **others}
    return "model.backbone={type: resnet, " + ", ".join(f"{key}: {value}" for key, value in settings.items()) + "}"


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def count_by_hand(depth: int, shortcut: str, stride_in_1x1: bool, side: int = 224) -> int:
    """Multiply-adds of a ResNet with 1000 classes: positions x weights of each layer, one after the other."""
    side = side // 2
    total = side**2 * 64 * 3 * 49
    side, channels = side // 2, 64
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        for block in range(num_blocks):
            out_side = side // 2 if stage > 0 and block == 0 else side
            if depth >= 50:
                middle = out_side if stride_in_1x1 else side
                out = 4 * width
                total += middle**2 * channels * width + out_side**2 * 9 * width**2 + out_side**2 * width * out
            else:
                out = width
                total += out_side**2 * 9 * (channels * width + width**2)
            changes = out_side != side or channels != out
            projects = {"A": False, "B": changes, "C": True, "none": False, "highway": changes}[shortcut]
            total += out_side**2 * channels * out * (projects + (shortcut == "highway"))
            side, channels = out_side, out
    return total + channels * 1000


@pytest.mark.parametrize(
    ("depth", "parameters", "paper"),
    [
        (18, 11_689_512, 1.8e9),
        (34, 21_797_672, 3.6e9),
        (50, 25_557_032, 3.8e9),
        (101, 44_549_160, 7.6e9),
        (152, 60_192_808, 11.3e9),
    ],
)
def test_imagenet_family(depth: int, parameters: int, paper: float) -> None:
    found = _architecture(_resnet(depth, stride_in_1x1=str(depth >= 50).lower()))
    assert found.parameters == parameters
    assert found.multiply_adds == count_by_hand(depth, "B", True)
    assert found.multiply_adds == pytest.approx(paper, rel=0.02)
    assert [part.output for part in found.parts] == [[(n, n)] for n in (112, 56, 28, 14, 7, 1)]
    assert f"The paper gives {paper / 1e9:g}e9 multiply-adds" in found.table()


@pytest.mark.parametrize("shortcut", ["A", "C", "none", "highway"])
@pytest.mark.parametrize("depth", [34, 50])
def test_every_shortcut(depth: int, shortcut: str) -> None:
    found = _architecture(_resnet(depth, shortcut))
    assert found.multiply_adds == count_by_hand(depth, shortcut, False)
    assert ("The paper gives" in found.table()) == (shortcut in ("A", "none"))


def test_torchvisions_stride_costs_more() -> None:
    found = _architecture(_resnet(50))
    assert found.multiply_adds == count_by_hand(50, "B", False)
    assert found.multiply_adds == pytest.approx(4.09e9, rel=0.001)
    assert "(model.backbone.stride_in_1x1=true)" in found.table()


MILLIONS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7", 1202: "19.4"}


CIFAR = [("resnet", 1202), *((kind, depth) for kind in ("resnet", "plain") for depth in (20, 32, 44, 56, 110))]


@pytest.mark.parametrize(("kind", "depth"), CIFAR)
def test_cifar_family(kind: str, depth: int) -> None:
    millions = MILLIONS[depth]
    found = _architecture(config=f"paper/cifar10_{kind}{depth}.yaml")
    decimals = len(millions.partition(".")[2])
    assert f"{found.parameters / 1e6:.{decimals}f}" == millions
    n = (depth - 2) // 6
    maps = [(32, 16, 2 * n), (16, 32, 2 * n), (8, 64, 2 * n)]
    convs = 32**2 * 3 * 16 * 9 + sum(side**2 * width**2 * 9 * layers for side, width, layers in maps)
    convs -= sum(side**2 * 9 * width * width // 2 for side, width, _ in maps[1:])  # from half as many channels
    assert found.multiply_adds == convs + 640
    assert (f"{millions} million parameters (table 6)" in found.table()) == (kind == "resnet")


def test_the_table_reads_as_the_papers() -> None:
    lines = _architecture().table().splitlines()
    assert lines[0].split() == ["part", "layers", "output", "parameters", "multiply-adds"]
    assert lines[3].split("  ")[:2] == ["conv2_x", "3x3 max pool, stride 2; 3 x [1x1, 64; 3x3, 64; 1x1, 256]"]
    assert lines[5].split()[-3:-1] == ["14x14", "7,098,368"]
    assert lines[8].split()[:2] == ["total", "25,557,032"]


def test_resnext_names_its_groups() -> None:
    table = _architecture(_resnet(50, groups=32, width_per_group=4)).table()
    assert "3 x [1x1, 128; 3x3, 128, 32 groups; 1x1, 256]" in table and "The paper gives" not in table


@pytest.mark.parametrize("norm", ["frozen_batch", "group", "none"])
def test_other_norms_count_the_same(norm: str) -> None:
    assert _architecture(_resnet(18, norm=norm)).multiply_adds == count_by_hand(18, "B", False)


def test_vgg16_with_its_fully_connected_layers() -> None:
    found = _architecture("model.backbone={type: vgg}", "model.head={type: fc}")
    assert found.parameters == 138_357_544
    sides, widths = (224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14), (64, 64, 128, 128, *[256] * 3, *[512] * 6)
    convs = sum(s * s * 9 * a * b for s, a, b in zip(sides, (3, *widths), widths, strict=False))
    assert found.multiply_adds == convs + 25088 * 4096 + 4096 * 4096 + 4096 * 1000
    assert [part.layers for part in found.parts][-2:] == ["pool, 4096-d fc, 4096-d fc", "1000-way fc"]
    assert found.parts[2].layers == "2x2 max pool, stride 2; 3 x [3x3, 256]" and found.parts[2].output == [(56, 56)]


def test_a_detectors_backbone_and_pyramid() -> None:
    found = _architecture(config="coco_r50.yaml", size_hw=(64, 96))
    names = "conv1 conv2_x conv3_x conv4_x conv5_x fpn rpn roi_heads"
    assert [part.name for part in found.parts] == names.split()
    assert found.parts[5].output == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    fpn = sum(n * (256 * c + 9 * 256 * 256) for n, c in zip(cells, (256, 512, 1024, 2048), strict=True))
    assert found.parts[5].multiply_adds == fpn
    assert found.parts[6].multiply_adds is None and "n/a: depends on the picture" in found.table()


class Outside(nn.Module):
    """A backbone of somebody's: a module, and a layer that is computed outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.feature_specs = {"c1": FeatureSpec(8, 2)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"c1": F.conv2d(self.body(pixels), torch.ones(8, 8, 1, 1))}


def test_a_class_of_somebodys_by_its_modules() -> None:
    found = _architecture(f"model.backbone={{type: '{__name__}:Outside'}}", size_hw=(10, 20), num_classes=4)
    rows = {part.name: (part.layers, part.output, part.parameters, part.multiply_adds) for part in found.parts}
    assert rows["body"] == ("Conv2d", [(5, 10)], 3 * 8 * 9 + 8, 50 * 27 * 8)
    assert rows["(other)"][1:] == ([], 0, 50 * 64)
    assert rows["fc"] == ("average pool, 4-way fc", [(1, 1)], 36, 32)


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETRES_DATASETS", str(tmp_path))  # no data is looked at
    outcome = run_detres("architecture", "--config", IMAGENET, "--size", 64, 96, "--classes", 5)
    assert outcome.code == 0, outcome.err
    assert "resnet, depth 50, shortcut B; one image of 64x96 (height x width), 5 classes." in outcome.out
    assert "The paper" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 0, 32), "--size: got 0 32"),
        (("--classes", 0), "num_classes=0"),
        (("model.head.type=x",), "model.head"),
    ],
)
def test_what_cannot_be(arguments: tuple[object, ...], message: str) -> None:
    outcome = run_detres("architecture", "--config", IMAGENET, *arguments)
    assert outcome.code == 1 and message in outcome.err and "Traceback" not in outcome.err

"""The box coder's clamp by hand (its other numbers are pinned in test_blocks.py)."""

import math

import pytest
import torch

from detres.backbones.interface import FeatureSpec
from detres.config.model import RoIHeadSettings, RPNSettings
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_coder import BoxCoder
from detres.detector.rpn import RPN

REFERENCE = torch.tensor([100.0, 100.0, 200.0, 300.0])  # 100 wide, 200 high, centre (150, 200)
LARGEST = 1000 / 16


def sizes(coder: BoxCoder, dw: float, dh: float) -> list[float]:
    x1, y1, x2, y2 = coder.decode(torch.tensor([0.0, 0.0, dw, dh]), REFERENCE).tolist()
    assert (x1 + x2) / 2 == pytest.approx(150) and (y1 + y2) / 2 == pytest.approx(200)
    return [x2 - x1, y2 - y1]


def test_growth_is_clamped_always_and_shrinking_with_symmetric_clamp() -> None:
    below = math.log(1 / LARGEST) - 1
    assert sizes(BoxCoder(), 9.0, below) == pytest.approx([100 * LARGEST, 200 / LARGEST / math.e], rel=1e-3)
    assert sizes(BoxCoder(symmetric_clamp=True), 9.0, below) == pytest.approx([100 * LARGEST, 200 / LARGEST], rel=1e-3)
    for symmetric in (False, True):  # inside the clamps both are the same
        assert sizes(BoxCoder(symmetric_clamp=symmetric), 0.5, -4.0) == pytest.approx(
            [100 * math.exp(0.5), 200 * math.exp(-4.0)], rel=1e-3
        )


def test_the_clamp_holds_for_the_deltas_without_their_weights() -> None:
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0), symmetric_clamp=True)
    assert sizes(coder, -5 * 4.0, -5 * 5.0) == pytest.approx([100 * math.exp(-4.0), 200 / LARGEST], rel=1e-3)


def test_the_setting_reaches_the_coders() -> None:
    assert RPNSettings().symmetric_clamp is False and RoIHeadSettings().symmetric_clamp is False
    for symmetric in (False, True):
        rpn = RPN({"c4": FeatureSpec(8, 16)}, AnchorGenerator([[32.0]]), symmetric_clamp=symmetric)
        assert rpn.coder.symmetric_clamp is rpn.box_loss.coder.symmetric_clamp is symmetric

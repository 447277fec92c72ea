"""Activation checkpointing: bit for bit the same training step, on a fraction of the memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detres.backbones import CifarResNet, ResNet, conv5_stage
from detres.backbones.blocks import BasicBlock, BlockStyle
from detres.backbones.stages import Stage
from detres.config import load_config
from detres.wiring import build_model

NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "basic": (ResNet, {"depth": 34, "out_features": ["c2", "c3"]}),
    "bottleneck": (ResNet, {"depth": 50, "zero_init_last_norm": True, "out_features": ["c3"]}),
    "frozen norms": (ResNet, {"depth": 50, "norm": "frozen_batch", "frozen_stages": 2, "out_features": ["c3"]}),
    "frozen stages": (ResNet, {"depth": 18, "frozen_stages": 2, "out_features": ["c3"]}),
    "group norm": (ResNet, {"depth": 18, "norm": "group", "out_features": ["c3"]}),
    "highway": (ResNet, {"depth": 18, "shortcut": "highway", "out_features": ["c3"]}),
    "cifar": (CifarResNet, {"depth": 104}),
    "plain cifar": (CifarResNet, {"depth": 32, "shortcut": "none"}),
}


def _step(make: Callable[..., nn.Module], options: dict[str, Any], checkpointed: bool, dtype: Any = None) -> Any:
    """Losses, gradients and buffers of two training steps."""
    torch.manual_seed(3)
    model = make(**options, checkpoint_activations=checkpointed).train()
    pixels = torch.randn(2, 3, 32, 40)
    losses = []
    for _ in range(2):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            features = model(pixels)
        loss = sum(x.float().pow(2).mean() for x in features.values())
        assert isinstance(loss, Tensor)
        loss.backward()
        losses.append(loss.detach())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, dict(model.named_buffers()), model


def _assert_same(plain: Any, checkpointed: Any) -> None:
    assert plain[1], "something must have learnt"
    for a, b in zip(plain[0], checkpointed[0], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(plain[1:3], checkpointed[1:3], strict=True):
        assert a.keys() == b.keys()
        assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_gradients_and_statistics_are_the_same_bits(name: str) -> None:
    make, options = NETWORKS[name]
    plain, checkpointed = _step(make, options, False), _step(make, options, True)
    _assert_same(plain, checkpointed)
    norms = [m for m in checkpointed[3].modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)
    learning = [norm for norm in norms if norm.training]
    assert {int(norm.num_batches_tracked or 0) for norm in learning} <= {2}, "each batch is counted once"


def test_the_same_bits_under_autocast() -> None:
    make, options = NETWORKS["basic"]
    _assert_same(_step(make, options, False, torch.bfloat16), _step(make, options, True, torch.bfloat16))


def test_conv5_of_a_c4_detector() -> None:
    def step(checkpointed: bool) -> Any:
        torch.manual_seed(0)
        head = conv5_stage(50, checkpoint_activations=checkpointed).train()
        regions = torch.randn(3, 1024, 6, 6, requires_grad=True)
        head(regions).sum().backward()
        return regions.grad, [p.grad for p in head.parameters()], dict(head.named_buffers())

    (own, gradients, buffers), (own2, gradients2, buffers2) = step(False), step(True)
    assert torch.equal(own, own2) and all(map(torch.equal, gradients, gradients2))
    assert not [name for name in buffers if not torch.equal(buffers[name], buffers2[name])]


@pytest.mark.parametrize("name", ["coco_r50.yaml", "coco_r50_c4.yaml", "paper/cifar10_resnet110.yaml"])
def test_the_setting_reaches_every_stage(name: str) -> None:
    overrides = ["model.backbone.checkpoint_activations=true", "model.backbone.weights=null"]
    with torch.device("meta"):
        model = build_model(load_config(name, overrides).config, 3)
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    assert len(stages) == (3 if "cifar" in name else 4)
    assert all(stage.checkpoint_activations for stage in stages)


def test_only_training_computes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    stage = Stage(*(BasicBlock(4, 4, 1, 1, BlockStyle()) for _ in range(16)), checkpoint_activations=True)
    for block in stage:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 4, 4, 4, requires_grad=True)
    stage.train()(x).sum().backward()
    assert len(calls) == 2 * 16
    calls.clear()
    with torch.no_grad():
        stage(x)
    stage.eval()(x).sum().backward()
    assert len(calls) == 2 * 16, "16 without gradients, 16 in evaluation mode"


def test_an_error_on_the_way_leaves_the_norms_as_they_were() -> None:
    class Stubborn(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            if self.count == 2:
                raise RuntimeError("the second computation fails")
            return x

    style = BlockStyle()
    blocks = nn.Sequential(BasicBlock(4, 4, 1, 1, style), Stubborn(), BasicBlock(4, 4, 1, 1, style))
    stage = Stage(blocks, checkpoint_activations=True).train()
    with pytest.raises(RuntimeError, match="second computation"):
        stage(torch.randn(1, 4, 4, 4)).pow(2).sum().backward()
    assert all(m.momentum == 0.1 for m in stage.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_deep_network_keeps_less_than_a_third() -> None:
    def kept(checkpointed: bool) -> int:
        """Bytes of the distinct tensors, parameters left out, that the graph of one training step holds."""
        model = CifarResNet(110, checkpoint_activations=checkpointed).train()
        own = {p.data_ptr() for p in model.parameters()}
        sizes: dict[int, int] = {}
        held = []

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
                held.append(tensor)  # so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(2, 3, 32, 32))["c2"].sum().backward()
        return sum(sizes.values())

    assert kept(True) * 3 < kept(False)

"""Caffe2's blob names there and back, in every spelling, and statistics that change nothing."""

import pytest
import torch
from torch import Tensor, nn

from detres.backbones import ResNet
from detres.layers.norm import FrozenBatchNorm2d
from detres.weights.formats import msra
from detres.weights.formats.msra import Spelling
from detres.weights.report import WeightsError

State = dict[str, Tensor]

SPELLINGS = [
    Spelling(),
    Spelling("running", "pred"),
    Spelling("affine"),
    Spelling("affine", "pred", "conv1"),
    Spelling("group", "pred", "conv1"),
]
NORM_BLOBS = {
    "gamma_beta": ("bn_gamma", "bn_beta", "bn_running_mean", "bn_running_var"),
    "running": ("bn_s", "bn_b", "bn_rm", "bn_riv"),
    "affine": ("bn_s", "bn_b"),
    "group": ("gn_s", "gn_b"),
}
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def blobs(spelling: Spelling, depth: int = 50, *, width: int = 64, groups: int = 1, device: str = "meta") -> State:
    """A file as FAIR's tools wrote them: names and shapes spelled out here, numbers drawn at random."""
    file: State = {}

    def layer(name: str, *shape: int, norm: str | None = None) -> None:
        file[f"{name}_w"] = torch.rand(shape, device=device)
        for blob in NORM_BLOBS[spelling.norm]:
            file[f"{norm or name}_{blob}"] = torch.rand(shape[0], device=device) + 0.5

    layer("conv1", 64, 3, 7, 7, norm=spelling.stem)
    into = 64
    for stage, count in enumerate(BLOCKS[depth], start=2):
        inner, out = width * groups * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for i in range(count):
            block = f"res{stage}_{i}_branch"
            if i == 0:
                layer(f"{block}1", out, into, 1, 1)
            layer(f"{block}2a", inner, into, 1, 1)
            layer(f"{block}2b", inner, inner // groups, 3, 3)
            layer(f"{block}2c", out, inner, 1, 1)
            into = out
    file[f"{spelling.classifier}_w"] = torch.rand(1000, 2048, device=device)
    file[f"{spelling.classifier}_b"] = torch.rand(1000, device=device)
    return file


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_there_and_back_in_every_spelling(spelling: Spelling) -> None:
    file = blobs(spelling, device="cpu" if spelling.norm == "affine" else "meta")
    assert msra.recognises(file) and msra.spelling_of(file) == spelling
    ours = msra.to_detres(file)
    with torch.device("meta"):
        norm = "group" if spelling.norm == "group" else "frozen_batch"
        expected = {f"backbone.{key}": tensor.shape for key, tensor in ResNet(50, norm=norm).state_dict().items()}
    assert {k: v.shape for k, v in ours.items() if not k.startswith("fc.")} == expected
    assert ours["fc.weight"] is file[f"{spelling.classifier}_w"]
    assert ours["backbone.layer2.0.downsample.0.weight"] is file["res3_0_branch1_w"]
    back = msra.from_detres(ours, spelling)
    assert back.keys() == file.keys() and all(back[key] is file[key] for key in file)


def test_the_spelling_is_chosen_by_what_there_is_to_write() -> None:
    affine = msra.to_detres(blobs(Spelling("affine"), device="cpu"))
    assert msra.spelling_of(msra.from_detres(affine)) == Spelling("affine")
    affine["backbone.layer1.0.bn1.running_mean"] = torch.ones(64)
    assert msra.spelling_of(msra.from_detres(affine)) == Spelling("gamma_beta")
    with pytest.raises(WeightsError, match='"affine".*no place for the statistics'):
        msra.from_detres(affine, Spelling("affine"))
    group = msra.to_detres(blobs(Spelling("group", "pred", "conv1")))
    assert msra.spelling_of(msra.from_detres(group)) == Spelling("group", "pred", "conv1")
    with pytest.raises(WeightsError, match="does not fit norms without statistics"):
        msra.from_detres(group, Spelling("gamma_beta"))


def test_norms_without_statistics_scale_by_their_weight_exactly() -> None:
    file = blobs(Spelling("affine"), device="cpu")
    ours = msra.to_detres(file)
    tensors = {part: ours[f"backbone.bn1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    x = torch.randn(2, 64, 3, 3)
    wanted = x * file["res_conv1_bn_s"][:, None, None] + file["res_conv1_bn_b"][:, None, None]
    scale = tensors["weight"] * torch.rsqrt(tensors["running_var"] + 1e-5)
    assert torch.equal(scale, file["res_conv1_bn_s"])
    frozen = FrozenBatchNorm2d(64)
    frozen.load_state_dict(tensors)
    assert torch.equal(frozen(x), wanted)
    trained = nn.BatchNorm2d(64).eval()
    trained.load_state_dict({**tensors, "num_batches_tracked": torch.tensor(0)})
    torch.testing.assert_close(trained(x), wanted, rtol=0, atol=1e-6)


def test_momentum_and_the_first_bias_are_ignored_and_the_rest_is_listed() -> None:
    file = blobs(Spelling())
    extra = {"conv1_w_momentum": torch.zeros(1), "fc1000_b_momentum": torch.zeros(1), "conv1_b": torch.zeros(64)}
    ours = msra.to_detres({**file, **extra})
    assert ours.keys() == msra.to_detres(file).keys()
    assert any("conv1_b" in text for text in msra.implied({**file, **extra}, {}).assumed)
    with pytest.raises(WeightsError, match="msra: 2 of .*conv_rpn_w, res2_0_branch2a_b"):
        msra.to_detres({**file, "conv_rpn_w": torch.zeros(1), "res2_0_branch2a_b": torch.zeros(1)})
    counters = {"backbone.bn1.num_batches_tracked": torch.tensor(3)}
    assert msra.from_detres({**ours, **counters}).keys() == file.keys()
    with pytest.raises(WeightsError, match="1 of .*rpn.head"):
        msra.from_detres({**ours, "rpn.head.cls_logits.bias": torch.zeros(3)})


def test_what_msras_and_fairs_networks_imply() -> None:
    found = msra.implied(blobs(Spelling()), {})
    assert found.model["type"] == "classifier" and found.model["backbone"]["depth"] == 50
    assert found.model["backbone"]["stride_in_1x1"] is True and found.class_names == ()
    assert found.model["pixels"] == {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "channel_order": "bgr"}
    assert all("model." in text for text in found.assumed)

    resnext = blobs(Spelling("running", "pred"), 101, width=8, groups=32)
    found = msra.implied(resnext, {})
    assert (found.model["backbone"]["groups"], found.model["backbone"]["width_per_group"]) == (32, 8)
    assert found.model["backbone"]["stride_in_1x1"] is False
    assert found.model["pixels"]["std"] == [57.375, 57.12, 58.395]
    assert msra.implied(blobs(Spelling("group", "pred", "conv1")), {}).model["backbone"]["norm"] == "group"


def test_instructions_are_detectron2s_settings() -> None:
    backbone = {"depth": 50, "norm": "frozen_batch", "stride_in_1x1": True, "groups": 1, "width_per_group": 64,
                "dilated_c5": False, "out_features": ["c5"], "deep_stem": False, "frozen_stages": 0, "type": "resnet",
                "shortcut": "B", "norm_eps": 1e-5, "avg_pool_shortcut": False}  # fmt: skip
    pixels = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "channel_order": "bgr"}
    lines = msra.instructions({"type": "classifier", "backbone": backbone, "pixels": pixels}, {})
    assert {"  FORMAT: BGR", "  PIXEL_STD: [1.0, 1.0, 1.0]", "    STRIDE_IN_1X1: True"} <= set(lines)
    assert not any(line.startswith("not the same") for line in lines)

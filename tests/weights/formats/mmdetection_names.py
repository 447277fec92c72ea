"""The keys and shapes of mmdetection's Faster R-CNNs, by the rules of its package's files (no mmdet needed).

mmdet 3.3.0: models/backbones/resnet.py and resnext.py, layers/res_layer.py, roi_heads/shared_heads/res_layer.py,
necks/fpn.py, dense_heads/rpn_head.py, roi_heads/bbox_heads/convfc_bbox_head.py. Tensors are on the meta device.
"""

import torch
from torch import Tensor

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
State = dict[str, Tensor]


def tensor(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def layer(name: str, *shape: int) -> State:
    """A convolution or a fully connected layer with a bias."""
    return {f"{name}.weight": tensor(*shape), f"{name}.bias": tensor(shape[0])}


def norm(name: str, channels: int) -> State:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": tensor(channels) for kind in kinds} | {f"{name}.num_batches_tracked": tensor()}


def group_norm(name: str, channels: int) -> State:
    return {f"{name}.weight": tensor(channels), f"{name}.bias": tensor(channels)}


def stage(prefix: str, index: int, depth: int, groups: int, base_width: int, v1d: bool) -> State:
    """layer{index + 1} of a ResNet or ResNeXt."""
    basic, planes = depth < 50, 64 * 2**index
    expansion = 1 if basic else 4
    width = planes if groups == 1 else planes * base_width // 64 * groups
    channels = 64 if index == 0 else planes // 2 * expansion
    state: State = {}
    for i in range(BLOCKS[depth][index]):
        block, shapes = f"{prefix}layer{index + 1}.{i}", [(planes, channels, 3), (planes, planes, 3)]
        if not basic:
            shapes = [(width, channels, 1), (width, width // groups, 3), (planes * 4, width, 1)]
        for number, (out, inside, kernel) in enumerate(shapes, start=1):
            state[f"{block}.conv{number}.weight"] = tensor(out, inside, kernel, kernel)
            state |= norm(f"{block}.bn{number}", out)
        if i == 0 and (index > 0 or not basic):
            first = 1 if v1d else 0  # 0 is the average pool there
            state[f"{block}.downsample.{first}.weight"] = tensor(planes * expansion, channels, 1, 1)
            state |= norm(f"{block}.downsample.{first + 1}", planes * expansion)
        channels = planes * expansion
    return state


def backbone(depth: int, groups: int = 1, base_width: int = 64, v1d: bool = False, stages: int = 4) -> State:
    """`backbone.*` of ResNet, ResNeXt or ResNetV1d."""
    if v1d:
        state = {}
        for i, (out, inside) in zip((0, 3, 6), ((32, 3), (32, 32), (64, 32)), strict=True):
            state[f"backbone.stem.{i}.weight"] = tensor(out, inside, 3, 3)
            state |= norm(f"backbone.stem.{i + 1}", out)
    else:
        state = {"backbone.conv1.weight": tensor(64, 3, 7, 7)} | norm("backbone.bn1", 64)
    for index in range(stages):
        state |= stage("backbone.", index, depth, groups, base_width, v1d)
    return state


def detector(form: str, depth: int, classes: int = 80, **options: int) -> State:
    """A whole Faster R-CNN; form "fpn", "c4" or "dc5"."""
    expansion = 1 if depth < 50 else 4
    state = backbone(depth, stages=3 if form == "c4" else 4, **options)
    width, anchors = {"fpn": 256, "c4": 256 * expansion, "dc5": 512 * expansion}[form], 3 if form == "fpn" else 15
    if form == "fpn":
        for i in range(4):
            state |= layer(f"neck.lateral_convs.{i}.conv", 256, 64 * 2**i * expansion, 1, 1)
            state |= layer(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)
    state |= layer("rpn_head.rpn_conv", width, width, 3, 3)
    state |= layer("rpn_head.rpn_cls", anchors, width, 1, 1) | layer("rpn_head.rpn_reg", 4 * anchors, width, 1, 1)
    features = 512 * expansion
    if form == "c4":
        state |= stage("roi_head.shared_head.", 3, depth, 1, 64, False)
    else:
        features = 1024
        state |= layer("roi_head.bbox_head.shared_fcs.0", 1024, width * 49)
        state |= layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    state |= layer("roi_head.bbox_head.fc_cls", classes + 1, features)
    return state | layer("roi_head.bbox_head.fc_reg", 4 * classes, features)

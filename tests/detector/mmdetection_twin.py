"""A real mmdetection Faster R-CNN from its own shipped configuration, and ours with the same weights.

mmdet's wheel comes without mmcv's compiled operators. Where they are missing, a stand-in takes their place: its
RoIAlign, RoIPool and NMS are torchvision's operators with mmcv's interface, everything else is an empty module.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align, roi_pool

from detres import wiring
from detres.config.model import FasterRCNNSettings
from detres.detector import FasterRCNN
from detres.structures import ImageBatch
from detres.weights.formats import mmdetection
from detres.weights.formats.interface import Implied

MISSING = (
    "mmdet is not installed: pip install --no-deps mmdet==3.3.0 mmengine==0.10.7 mmcv-lite==2.1.0 "
    "addict yapf platformdirs six termcolor terminaltables shapely tqdm"
)
EVERYTHING = 1 << 18  # a sample size that takes every anchor and proposal: no random choice
CLASSES = ("ant", "bee", "cat", "dog", "eel")


class RoIAlign(nn.Module):
    def __init__(self, output_size: int, spatial_scale: float, sampling_ratio: int = 0, aligned: bool = True) -> None:
        super().__init__()
        self.output_size, self.options = (output_size, output_size), (spatial_scale, sampling_ratio, aligned)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_align(features, rois, self.output_size, *self.options)


class RoIPool(nn.Module):
    def __init__(self, output_size: int, spatial_scale: float) -> None:
        super().__init__()
        self.output_size, self.scale = (output_size, output_size), spatial_scale

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_pool(features, rois, self.output_size, self.scale)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, nms_cfg: Any) -> tuple[Tensor, Tensor]:
    """(boxes with their scores, indices) of what NMS leaves in each group, by decreasing score."""
    assert nms_cfg["type"] == "nms"
    kept = []
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        kept.append(members[torchvision_nms(boxes[members], scores[members], nms_cfg["iou_threshold"])])
    keep = torch.cat(kept)
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


class _Operators(types.ModuleType):
    """mmcv.ops and all below it."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return {"RoIAlign": RoIAlign, "RoIPool": RoIPool, "batched_nms": batched_nms}.get(name) or type(
            name, (nn.Module,), {}
        )


class _Finder:
    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name == "mmcv.ops" or name.startswith("mmcv.ops."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Operators(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def import_mmdet() -> Any:
    """mmdet with its models registered; skips the test where it is not installed."""
    mmdet = pytest.importorskip("mmdet", reason=MISSING)
    if importlib.util.find_spec("mmcv._ext") is None and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    importlib.import_module("mmdet.models")
    return mmdet


def shipped_config(name: str, **model: Any) -> Any:
    """The `model` of one of mmdet's configurations, for five classes and few proposals, changed by `model`."""
    from mmengine.config import Config

    mmdet = import_mmdet()
    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / name).model
    few: dict[str, Any] = {
        "backbone": {"init_cfg": None},
        "roi_head": {"bbox_head": {"num_classes": len(CLASSES)}},
        "test_cfg": {"rpn": {"nms_pre": 200, "max_per_img": 30}, "rcnn": {"score_thr": 0.02, "max_per_img": 5000}},
        "train_cfg": {
            "rpn_proposal": {"nms_pre": 200, "max_per_img": 20},
            "rpn": {"sampler": {"num": EVERYTHING}},
            "rcnn": {"sampler": {"num": EVERYTHING, "pos_fraction": 0.5}},
        },
    }
    if "shared_head" in config.roi_head:
        few["roi_head"]["shared_head"] = {"init_cfg": None}
    whole = Config({"model": config})
    for change in (few, model):
        whole.merge_from_dict({"model": change})
    return whole


def their_model(config: Any) -> nn.Module:
    """Built by mmdet, with random weights whose detections are worth comparing; double precision."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    torch.manual_seed(5)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model).double().eval()
    _randomise(model)
    return model


def built_from(lines: Sequence[str]) -> nn.Module:
    """What mmdet builds from a configuration's text."""
    from mmengine.config import Config

    import_mmdet()
    return their_model(Config.fromstring("\n".join(lines), ".py"))


def our_model(state: dict[str, Tensor], extra: dict[str, Any]) -> tuple[FasterRCNN, Implied]:
    """Ours from an mmdetection file's contents alone."""
    implied = mmdetection.implied(state, extra)
    settings = FasterRCNNSettings.model_validate(implied.model)
    ours = wiring.build_detector(settings, len(CLASSES))
    ours.load_state_dict(mmdetection.to_detres(state), strict=True)
    return ours.double().eval(), implied


def extra_of(config: Any) -> dict[str, Any]:
    """What mmengine's checkpoints hold beside the weights."""
    return {"meta": {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}}}


def pictures(sizes_hw: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Random smooth pictures (3, H, W), RGB, whole numbers of 0..255."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for height, width in sizes_hw:
        coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
        picture = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        found.append((picture.clamp(0, 1) * 255).round())
    return found


def their_input(model: Any, images: Sequence[Tensor], training: bool = False, **truth: list[Tensor]) -> dict[str, Any]:
    """Their batch of images, which they read as BGR, through their own preprocessor."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for i, image in enumerate(images):
        size = (image.shape[1], image.shape[2])
        info = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=info)
        if truth:
            sample.gt_instances = InstanceData(bboxes=truth["boxes"][i].double(), labels=truth["labels"][i])
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    data = {"inputs": [image.flip(0) for image in images], "data_samples": samples}
    prepared = model.data_preprocessor(data, training)
    return {"batch_inputs": prepared["inputs"].double(), "batch_data_samples": prepared["data_samples"]}


def our_input(model: FasterRCNN, images: Sequence[Tensor]) -> ImageBatch:
    return ImageBatch.from_images(list(images), size_divisibility=model.pixels.size_divisibility)


def _randomise(model: Any) -> None:
    """Weights that keep activations in bounds, norms with statistics, and predictors that spread their outputs."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            last = 0.3 if name.endswith(("bn3", "layer1.0.bn2")) else 1.0
            nn.init.uniform_(module.weight, 0.5 * last, 1.5 * last), nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1), nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    heads = model.roi_head.bbox_head
    wanted = {model.rpn_head.rpn_cls: 2.0, model.rpn_head.rpn_reg: 1.5, heads.fc_cls: 1.5, heads.fc_reg: 5.0}
    with torch.no_grad():
        features = model.extract_feat(their_input(model, pictures([(96, 128)]))["batch_inputs"])
        for layer, spread in wanted.items():
            seen: list[Tensor] = []
            hook = layer.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
            model.rpn_head(features)
            rois = torch.tensor([[0, 5, 5, 60, 50], [0, 30, 20, 120, 90], [0, 0, 0, 30, 90]]).double()
            model.roi_head._bbox_forward(features, rois)
            hook.remove()
            layer.weight.mul_(spread / torch.cat([out.flatten() for out in seen]).std())
        for layer, clamp in ((model.rpn_head.rpn_reg, 4.2), (heads.fc_reg, 30.0)):
            layer.bias[2], layer.bias[-1] = clamp, -clamp  # dw of the first anchor or class, dh of the last
        model.rpn_head.rpn_cls.bias[-1] = 4.0  # so that what the lower clamp holds is among the proposals

"""From the settings of `model` to an mmdetection configuration that builds the same model."""

from collections.abc import Mapping
from pprint import pformat
from typing import Any

Settings = Mapping[str, Any]
Config = dict[str, Any]

_LOSSES = {"l1": "L1Loss", "smooth_l1": "SmoothL1Loss", "giou": "GIoULoss", "diou": "DIoULoss", "ciou": "CIoULoss"}
_STAGE_CHANNELS = (64, 128, 256, 512)


def snippet(model: Settings, num_classes: int) -> list[str]:
    """Lines of a Python configuration for a model with a ResNet."""
    if model["type"] == "classifier":
        pretrained = {"init_cfg": {"type": "Pretrained", "checkpoint": "FILE"}}
        parts = {"data_preprocessor": _pixels(model), "backbone": _backbone(model["backbone"]) | pretrained}
        return _assignment("model", parts)
    return [*_assignment("model", detector_config(model, num_classes)), "load_from = 'FILE'"]


def detector_config(model: Settings, num_classes: int) -> Config:
    """`model` of an mmdetection configuration for a detres detector with a ResNet, and so many classes."""
    neck = {} if model["neck"] is None else {"neck": _neck(model)}
    return {
        "type": "FasterRCNN",
        "data_preprocessor": _pixels(model),
        "backbone": _backbone(model["backbone"]),
        **neck,
        "rpn_head": _rpn_head(model),
        "roi_head": _roi_head(model, num_classes),
        "train_cfg": _train_cfg(model),
        "test_cfg": _test_cfg(model),
    }


def _assignment(name: str, value: Config) -> list[str]:
    return f"{name} = {pformat(value, width=110, sort_dicts=False)}".splitlines()


def _pixels(model: Settings) -> Config:
    pixels = model["pixels"]
    return {
        "type": "DetDataPreprocessor",
        "mean": list(pixels["mean"]),
        "std": list(pixels["std"]),
        "bgr_to_rgb": pixels["channel_order"] == "rgb",
        "pad_size_divisor": max(pixels["size_divisibility"], 1),
    }


def _backbone(backbone: Settings) -> Config:
    wanted = [int(name[1]) - 2 for name in backbone["out_features"]]
    stages = max(wanted) + 1
    dilated = backbone["dilated_c5"] and stages == 4
    grouped = {"groups": backbone["groups"], "base_width": backbone["width_per_group"]}
    return {
        "type": "ResNet" if backbone["groups"] == 1 else "ResNeXt",
        "depth": backbone["depth"],
        **(grouped if backbone["groups"] > 1 else {}),
        "num_stages": stages,
        "strides": (1, 2, 2, 1 if dilated else 2)[:stages],
        "dilations": (1, 1, 1, 2 if dilated else 1)[:stages],
        "out_indices": tuple(wanted),
        "deep_stem": backbone["deep_stem"],
        "avg_down": backbone["avg_pool_shortcut"],
        "frozen_stages": min(backbone["frozen_stages"], stages + 1) - 1,
        **_norm(backbone["norm"], backbone["norm_eps"]),
        "style": "caffe" if backbone["stride_in_1x1"] else "pytorch",
    }


def _norm(kind: str, eps: float) -> Config:
    names = {"sync_batch": "SyncBN", "group": "GN"}
    norm: Config = {"type": names.get(kind, "BN"), "requires_grad": kind != "frozen_batch", "eps": eps}
    return {
        "norm_cfg": norm | ({"num_groups": 32} if kind == "group" else {}),
        "norm_eval": kind == "frozen_batch",
    }


def _norm_cfg(kind: str) -> Config:
    """Of the layers behind the backbone."""
    return {} if kind == "none" else {"norm_cfg": _norm(kind, 1e-5)["norm_cfg"]}


def _expansion(backbone: Settings) -> int:
    return 1 if backbone["depth"] in (18, 34) else 4


def _neck(model: Settings) -> Config:
    neck, backbone = model["neck"], model["backbone"]
    channels = [_STAGE_CHANNELS[int(name[1]) - 2] * _expansion(backbone) for name in backbone["out_features"]]
    top = {"add_extra_convs": "on_input", "relu_before_extra_convs": True} if neck["top"] == "conv" else {}
    num_outs = len(channels) + {"none": 0, "maxpool": 1, "conv": 2}[neck["top"]]
    sizes = {"in_channels": channels, "out_channels": neck["channels"], "num_outs": num_outs}
    return {"type": "FPN", **sizes, **top, **_norm_cfg(neck["norm"])}


def _strides(model: Settings) -> list[int]:
    """Of the levels that the RPN works on."""
    if model["neck"] is None:
        level = int(model["backbone"]["out_features"][0][1])
        return [16 if model["backbone"]["dilated_c5"] and level == 5 else 2**level]
    first = int(model["backbone"]["out_features"][0][1])
    return [2 ** (first + i) for i in range(len(model["anchors"]["sizes"]))]


def _channels(model: Settings) -> int:
    """Of every one of these levels."""
    if model["neck"] is not None:
        return int(model["neck"]["channels"])
    return _STAGE_CHANNELS[int(model["backbone"]["out_features"][0][1]) - 2] * _expansion(model["backbone"])


def _coder(weights: list[float]) -> Config:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1 / w for w in weights]}


def _box_loss(settings: Settings) -> Config:
    kind = settings["box_loss"]
    if kind == "smooth_l1" and settings["smooth_l1_beta"] == 0:
        kind = "l1"
    beta = {"beta": settings["smooth_l1_beta"]} if kind == "smooth_l1" else {}
    loss = {"type": _LOSSES[kind], **beta, "loss_weight": settings["box_loss_weight"]}
    return {"reg_decoded_bbox": kind in ("giou", "diou", "ciou"), "loss_bbox": loss}


def _rpn_head(model: Settings) -> Config:
    rpn, anchors = model["rpn"], model["anchors"]
    return {
        "type": "RPNHead",
        "in_channels": _channels(model),
        "feat_channels": rpn["channels"] or _channels(model),
        "num_convs": rpn["convs"],
        "anchor_generator": {
            "type": "AnchorGenerator",
            "strides": _strides(model),
            "base_sizes": [level[0] for level in anchors["sizes"]],
            "scales": [size / anchors["sizes"][0][0] for size in anchors["sizes"][0]],
            "ratios": list(anchors["aspect_ratios"]),
            "scale_major": anchors["order"] == "ratio_major",  # the scales beside each other
        },
        "bbox_coder": _coder([1.0] * 4),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        **_box_loss(rpn),
    }


def _roi_head(model: Settings, num_classes: int) -> Config:
    heads = model["roi_heads"]
    return {
        "type": "StandardRoIHead",
        **_shared_head(model),
        "bbox_roi_extractor": _extractor(model),
        "bbox_head": {
            **_box_head(model),
            "num_classes": num_classes,
            "bbox_coder": _coder(heads["box_coder_weights"]),
            "reg_class_agnostic": heads["class_agnostic"],
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            **_box_loss(heads),
        },
    }


def _shared_head(model: Settings) -> Config:
    """conv5_x of a C4 detector, else nothing."""
    if model["roi_heads"]["box_head"]["type"] != "conv5":
        return {}
    backbone = model["backbone"]
    stage = {"depth": backbone["depth"], "stage": 3, "stride": 1 if backbone["dilated_c5"] else 2}
    stage |= {"dilation": 2 if backbone["dilated_c5"] else 1}
    style = "caffe" if backbone["stride_in_1x1"] else "pytorch"
    return {
        "shared_head": {"type": "ResLayer", **stage, "style": style, **_norm(backbone["norm"], backbone["norm_eps"])}
    }


def _extractor(model: Settings) -> Config:
    pool, strides = model["roi_heads"]["pool"], _strides(model)[: len(model["backbone"]["out_features"])]
    layer = {"type": "RoIPool" if pool["type"] == "roi_pool" else "RoIAlign", "output_size": pool["output_size"]}
    if pool["type"] == "roi_align":
        layer |= {"sampling_ratio": pool["sampling_ratio"], "aligned": pool["aligned"]}
    first = strides[0].bit_length() - 1
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": layer,
        "out_channels": _channels(model),
        "featmap_strides": strides,
        "finest_scale": pool["canonical_size"] / 2 ** (pool["canonical_level"] - first),
    }


def _box_head(model: Settings) -> Config:
    head, size = model["roi_heads"]["box_head"], model["roi_heads"]["pool"]["output_size"]
    if head["type"] == "conv5":
        left = size if model["backbone"]["dilated_c5"] else -(-size // 2)
        channels = 512 * _expansion(model["backbone"])
        return {"type": "BBoxHead", "with_avg_pool": True, "roi_feat_size": left, "in_channels": channels}
    common = {"type": "ConvFCBBoxHead", "in_channels": _channels(model), "roi_feat_size": size}
    common["fc_out_channels"] = head["channels"]
    if head["type"] == "fc":
        return {**common, "num_shared_fcs": head["num_fcs"]}
    convs = {"num_shared_convs": head["num_convs"], "conv_out_channels": head["conv_channels"], "num_shared_fcs": 1}
    return {**common, **convs, **_norm_cfg(head["norm"])}


def _sampling(settings: Settings, low_quality: bool, add_ground_truth: bool) -> Config:
    sampling = settings["sampling"]
    return {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": sampling["positive_iou"],
            "neg_iou_thr": sampling["negative_iou"],
            "min_pos_iou": 0.0 if low_quality else sampling["positive_iou"],
            "match_low_quality": low_quality,
            "ignore_iof_thr": 0.5,
        },
        "sampler": {
            "type": "RandomSampler",
            "num": sampling["batch_size"],
            "pos_fraction": sampling["positive_fraction"],
            "neg_pos_ub": -1,
            "add_gt_as_proposals": add_ground_truth,
        },
        "pos_weight": -1,
        "debug": False,
    }


def _train_cfg(model: Settings) -> Config:
    rpn, heads = model["rpn"], model["roi_heads"]
    return {
        "rpn": {**_sampling(rpn, True, False), "allowed_border": rpn["straddle_threshold"]},
        "rpn_proposal": _proposals(rpn, "train"),
        "rcnn": _sampling(heads, False, heads["add_ground_truth"]),
    }


def _test_cfg(model: Settings) -> Config:
    heads = model["roi_heads"]
    nms: Config = {"type": "nms", "iou_threshold": heads["nms_iou"]}
    if heads["nms"] != "hard":
        method = heads["nms"].removeprefix("soft_")
        nms |= {"type": "soft_nms", "method": method, "sigma": heads["soft_nms_sigma"]}
        nms["min_score"] = heads["score_threshold"]
    rcnn = {"score_thr": heads["score_threshold"], "nms": nms, "max_per_img": heads["detections_per_image"]}
    return {"rpn": _proposals(model["rpn"], "test"), "rcnn": rcnn}


def _proposals(rpn: Settings, phase: str) -> Config:
    return {
        "nms_pre": rpn[f"pre_nms_top_n_{phase}"],
        "max_per_img": rpn[f"post_nms_top_n_{phase}"],
        "nms": {"type": "nms", "iou_threshold": rpn["nms_iou"]},
        "min_bbox_size": rpn["min_size"],
    }

"""detectron2's YAML settings that make it compute what a model of detres computes.

Names and types are those of its config/defaults.py; it refuses 0.0 where its default is 0, and the other way about.
"""

from collections.abc import Mapping
from typing import Any

_NORMS = {"batch": "BN", "frozen_batch": "FrozenBN", "sync_batch": "SyncBN", "group": "GN", "none": ""}
_STAGES = {"c2": "res2", "c3": "res3", "c4": "res4", "c5": "res5"}
_SIZES_OF_D2 = {"canonical_size": 224, "canonical_level": 4}
_WIDTH_OF_RES2 = {True: 256, False: 64}  # with bottlenecks or without

Settings = Mapping[str, Any]


def settings_for(model: Settings, num_classes: int) -> list[str]:
    """The lines of a YAML file, nested as detectron2 reads it; then the differences, each behind "not the same: "."""
    backbone = model["backbone"]
    if backbone["type"] != "resnet":
        return [f"not the same: detectron2 has no {backbone['type']} backbone"]
    settings = _pixel_settings(model["pixels"]) | _resnet_settings(backbone)
    differences = _pixel_differences(model) + _backbone_differences(model)
    if model["type"] == "faster_rcnn":
        settings |= _pyramid_settings(model) | _rpn_settings(model) | _head_settings(model, num_classes)
        differences += _anchor_differences(model["anchors"]) + _other_differences(model)
    return _yaml_lines(_nested(settings)) + [f"not the same: {text}" for text in differences]


def _pixel_settings(pixels: Settings) -> dict[str, Any]:
    order = str(pixels["channel_order"]).upper()
    return {"INPUT.FORMAT": order, "MODEL.PIXEL_MEAN": pixels["mean"], "MODEL.PIXEL_STD": pixels["std"]}


def _resnet_settings(backbone: Settings) -> dict[str, Any]:
    bottleneck = backbone["depth"] > 34
    settings: dict[str, Any] = {
        "DEPTH": backbone["depth"],
        "NORM": _NORMS[backbone["norm"]],
        "STRIDE_IN_1X1": backbone["stride_in_1x1"],
        "NUM_GROUPS": backbone["groups"],
        "WIDTH_PER_GROUP": backbone["width_per_group"],
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": _WIDTH_OF_RES2[bottleneck],
        "RES5_DILATION": 2 if backbone["dilated_c5"] else 1,
        "OUT_FEATURES": [_STAGES[name] for name in backbone["out_features"]],
    }
    return {
        "MODEL.BACKBONE.FREEZE_AT": backbone["frozen_stages"],
        **{f"MODEL.RESNETS.{key}": value for key, value in settings.items()},
    }


def _pyramid_settings(model: Settings) -> dict[str, Any]:
    backbone, neck = model["backbone"], model["neck"]
    stages = [_STAGES[name] for name in backbone["out_features"]]
    if neck is None:
        used = {"MODEL.RPN.IN_FEATURES": stages, "MODEL.ROI_HEADS.IN_FEATURES": stages}
        return {"MODEL.BACKBONE.NAME": "build_resnet_backbone", **used}
    kind = "retinanet_resnet" if neck["top"] == "conv" else "resnet"
    levels = [f"p{name[1]}" for name in backbone["out_features"]]
    coarsest = int(levels[-1][1])
    extra = {"maxpool": [f"p{coarsest + 1}"], "conv": [f"p{coarsest + 1}", f"p{coarsest + 2}"], "none": []}[neck["top"]]
    return {
        "MODEL.BACKBONE.NAME": f"build_{kind}_fpn_backbone",
        "MODEL.FPN.IN_FEATURES": stages,
        "MODEL.FPN.OUT_CHANNELS": neck["channels"],
        "MODEL.FPN.NORM": _NORMS[neck["norm"]],
        "MODEL.RPN.IN_FEATURES": levels + extra,
        "MODEL.ROI_HEADS.IN_FEATURES": levels,
    }


def _rpn_settings(model: Settings) -> dict[str, Any]:
    rpn, anchors = model["rpn"], model["anchors"]
    sampling = rpn["sampling"]
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": anchors["sizes"],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [anchors["aspect_ratios"]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": int(rpn["min_size"]),
        "MODEL.RPN.CONV_DIMS": [rpn["channels"] or -1] * rpn["convs"],
        "MODEL.RPN.IOU_THRESHOLDS": [sampling["negative_iou"], sampling["positive_iou"]],
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": sampling["batch_size"],
        "MODEL.RPN.POSITIVE_FRACTION": sampling["positive_fraction"],
        "MODEL.RPN.BOUNDARY_THRESH": int(rpn["straddle_threshold"]),
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": rpn["pre_nms_top_n_train"],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn["pre_nms_top_n_test"],
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": rpn["post_nms_top_n_train"],
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn["post_nms_top_n_test"],
        "MODEL.RPN.NMS_THRESH": rpn["nms_iou"],
        **_loss_settings("MODEL.RPN", rpn),
    }


def _head_settings(model: Settings, num_classes: int) -> dict[str, Any]:
    heads, pool, box_head = model["roi_heads"], model["roi_heads"]["pool"], model["roi_heads"]["box_head"]
    align = "ROIAlignV2" if pool["aligned"] else "ROIAlign"
    c4 = box_head["type"] == "conv5"
    sampling = heads["sampling"]
    return {
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads" if c4 else "StandardROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [sampling["positive_iou"]],
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": sampling["batch_size"],
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": sampling["positive_fraction"],
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": heads["add_ground_truth"],
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": heads["score_threshold"],
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": heads["nms_iou"],
        "TEST.DETECTIONS_PER_IMAGE": heads["detections_per_image"],
        **_box_head_settings(box_head),
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool" if pool["type"] == "roi_pool" else align,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": pool["output_size"],
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": pool["sampling_ratio"],
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": heads["box_coder_weights"],
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": heads["class_agnostic"],
        **_loss_settings("MODEL.ROI_BOX_HEAD", heads),
    }


def _box_head_settings(head: Settings) -> dict[str, Any]:
    match head["type"]:
        case "conv5":
            return {}
        case "fc":
            settings = {"NUM_CONV": 0, "NUM_FC": head["num_fcs"], "FC_DIM": head["channels"]}
        case _:
            convs = {"NUM_CONV": head["num_convs"], "CONV_DIM": head["conv_channels"], "NORM": _NORMS[head["norm"]]}
            settings = {**convs, "NUM_FC": 1, "FC_DIM": head["channels"]}
    return {f"MODEL.ROI_BOX_HEAD.{key}": v for key, v in ({"NAME": "FastRCNNConvFCHead"} | settings).items()}


def _loss_settings(place: str, settings: Settings) -> dict[str, Any]:
    kind = settings["box_loss"]
    return {
        f"{place}.BBOX_REG_LOSS_TYPE": "smooth_l1" if kind == "l1" else kind,
        f"{place}.SMOOTH_L1_BETA": 0.0 if kind == "l1" else settings["smooth_l1_beta"],
        f"{place}.BBOX_REG_LOSS_WEIGHT": settings["box_loss_weight"],
    }


def _pixel_differences(model: Settings) -> list[str]:
    pixels = model["pixels"]
    found = []
    if pixels.get("per_pixel_mean") is not None:
        found.append("a mean image is subtracted here (model.pixels.per_pixel_mean), a mean colour there")
    if model["type"] == "faster_rcnn":
        theirs = 0 if model["neck"] is None else 2 ** int(model["backbone"]["out_features"][-1][1])
        if pixels["size_divisibility"] != theirs:
            here, there = (f"padded to a multiple of {n}" if n else "not padded" for n in
                           (pixels["size_divisibility"], theirs))  # fmt: skip
            found.append(f"images are {here} here (model.pixels.size_divisibility), {there} there")
    return found


def _backbone_differences(model: Settings) -> list[str]:
    backbone = model["backbone"]
    found = []
    if backbone["shortcut"] != "B":
        found.append(f"model.backbone.shortcut is {backbone['shortcut']} here, B there")
    if backbone["norm"] == "none":
        found.append("convolutions of the backbone have biases here (model.backbone.norm none), none there")
    elif backbone["norm_eps"] != 1e-5 and backbone["norm"] != "none":
        found.append(f"model.backbone.norm_eps is {backbone['norm_eps']:g} here, 1e-05 there")
    if backbone["avg_pool_shortcut"]:
        found.append("shortcuts average before they project here (model.backbone.avg_pool_shortcut), not there")
    if backbone["deep_stem"]:
        found.append("the stem of three convolutions is DeepLabStem of its projects/DeepLab: build the model in Python")
    if backbone["depth"] <= 34 and backbone["dilated_c5"]:
        found.append("conv5_x of basic blocks is dilated here (model.backbone.dilated_c5), never there")
    if backbone["depth"] <= 34 and model["type"] == "faster_rcnn" and model["roi_heads"]["box_head"]["type"] == "conv5":
        found.append("conv5_x of the head has basic blocks here, bottlenecks in its Res5ROIHeads")
    return found


def _anchor_differences(anchors: Settings) -> list[str]:
    found = []
    if anchors["rounded"]:
        found.append("anchors are rounded to whole pixels here (model.anchors.rounded), not there")
    if anchors["stride"] != "nominal":
        found.append("the anchors' stride is the padded size // the feature size here, the nominal one there")
    if anchors["order"] != "size_major" and len(anchors["sizes"][0]) > 1 and len(anchors["aspect_ratios"]) > 1:
        found.append("a cell's anchors go by ratio, then size here (model.anchors.order), by size, then ratio there")
    return found


def _other_differences(model: Settings) -> list[str]:
    rpn, heads, neck = model["rpn"], model["roi_heads"], model["neck"]
    clamp = "decoded sizes are clamped from below as well here (model.{}.symmetric_clamp), only from above there"
    found = [clamp.format(name) for name in ("rpn", "roi_heads") if model[name].get("symmetric_clamp")]
    if neck is not None and neck["top"] == "none":
        found.append("the pyramid ends at p5 here (model.neck.top none), its builders add p6 or p6 and p7")
    for key in ("min_size", "straddle_threshold"):
        if rpn[key] != int(rpn[key]):
            found.append(f"model.rpn.{key} is {rpn[key]:g} here, where detectron2 takes whole numbers alone")
    if rpn["score_threshold"] > 0:
        found.append("proposals below model.rpn.score_threshold are dropped here, none there")
    if rpn["normalize_by"] != "batch_size":
        found.append("RPN losses are divided by the anchors sampled here (model.rpn.normalize_by), by BATCH_SIZE there")
    if heads["nms"] != "hard":
        found.append(f"model.roi_heads.nms is {heads['nms']} here, hard there")
    if heads["min_size"] > 0:
        found.append("detections smaller than model.roi_heads.min_size are dropped here, none there")
    for key, theirs in _SIZES_OF_D2.items():
        if neck is not None and heads["pool"][key] != theirs:
            found.append(f"model.roi_heads.pool.{key} is {heads['pool'][key]:g} here, {theirs} there")
    if heads["sampling"].get("ohem"):
        found.append("regions are mined by their loss here (model.roi_heads.sampling.ohem), drawn at random there")
    if heads["sampling"]["negative_iou"] != heads["sampling"]["positive_iou"]:
        found.append("regions between model.roi_heads.sampling's two thresholds are ignored here, background there")
    return found


def _nested(settings: Settings) -> dict[str, Any]:
    """{"A.B": 1, "A.C": 2} -> {"A": {"B": 1, "C": 2}}."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def _yaml_lines(tree: Settings, indent: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_value(value)}")
    return lines


def _value(value: Any) -> str:
    """As YAML writes it on one line."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)

"""From `model` to networks and their initial weights."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from detres.backbones import FPN, VGG, Backbone, BackboneWithFPN, CifarResNet, ResNet, conv5_stage
from detres.classifier import Classifier, Mixing
from detres.classifier.vgg_head import VGGHead
from detres.config import Config
from detres.config import backbones as backbone_settings
from detres.config import model as model_settings
from detres.config.localizer import LocalizerSettings
from detres.detector import FasterRCNN, Localizer
from detres.detector.anchors import AnchorGenerator
from detres.detector.box_head import BoxPredictor, Conv5Head, ConvFCHead, FCHead
from detres.detector.cascade import CascadeRoIHeads
from detres.detector.roi_heads import RoIHeads
from detres.detector.rpn import RPN
from detres.layers.pixels import PixelNormalizer
from detres.layers.roi_pool import RoIPooler
from detres.weights.agreement import backbone_mismatch, detector_mismatch, pixel_mismatch
from detres.weights.backbone import load_backbone
from detres.weights.formats import Implied
from detres.weights.load import load_weights
from detres.weights.report import LoadReport, LoadRow, WeightsError, shorten
from detres.weights.second_stage import grow_second_stage
from detres.weights.sources import LoadedWeights, read_state_dict
from detres.wiring.outside import outside_class

Network = FasterRCNN | Classifier | Localizer

PRETRAINED = "pretrained"  # model.backbone.weights of a backbone whose library publishes weights for it


def build_backbone(settings: backbone_settings.Backbone) -> Backbone:
    """The backbone that `model.backbone` describes, randomly initialised."""
    options = settings.model_dump(exclude={"type", "weights"})
    match settings:
        case backbone_settings.ResNetSettings():
            return ResNet(**options)
        case backbone_settings.CifarResNetSettings():
            return CifarResNet(**options)
        case backbone_settings.VGGSettings():
            return VGG(**options)
        case _:
            outside = outside_class(settings.type, "model.backbone.type")(**settings.args)
            if not isinstance(outside, nn.Module) or not isinstance(outside, Backbone):
                raise ValueError(
                    f"model.backbone.type: {settings.type} is no backbone; expected an nn.Module with feature_specs "
                    "and forward(pixels) -> dict of maps (detres.backbones.Backbone)"
                )
            return outside


def build_detector(settings: model_settings.FasterRCNNSettings, num_classes: int) -> FasterRCNN:
    """The Faster R-CNN that `model` describes, randomly initialised, for `num_classes` classes."""
    backbone = build_backbone(settings.backbone)
    if settings.neck is not None:
        backbone = BackboneWithFPN(backbone, FPN(backbone.feature_specs, **settings.neck.model_dump()))
    anchors = AnchorGenerator(**settings.anchors.model_dump())
    rpn_options = settings.rpn.model_dump(exclude={"sampling"})
    for name in ("pre_nms_top_n", "post_nms_top_n"):
        rpn_options[name] = (rpn_options.pop(f"{name}_train"), rpn_options.pop(f"{name}_test"))
    rpn = RPN(backbone.feature_specs, anchors, **rpn_options, **settings.rpn.sampling.model_dump())
    roi_heads = _build_roi_heads(settings, backbone, num_classes)
    return FasterRCNN(PixelNormalizer(**settings.pixels.model_dump()), cast(nn.Module, backbone), rpn, roi_heads)


def _build_roi_heads(settings: model_settings.FasterRCNNSettings, backbone: Backbone, num_classes: int) -> RoIHeads:
    heads, cascade = settings.roi_heads, settings.roi_heads.cascade
    specs = {name: spec for name, spec in backbone.feature_specs.items() if name not in ("p6", "p7")}
    pooler = RoIPooler([spec.stride for spec in specs.values()], **heads.pool.model_dump())
    channels = next(iter(specs.values())).channels
    elsewhere = {"pool", "box_head", "cascade", "class_agnostic", "background", "sampling"}
    options = heads.model_dump(exclude=elsewhere) | heads.sampling.model_dump()

    def parts() -> tuple[list[str], RoIPooler, nn.Module, BoxPredictor]:
        box_head = _build_box_head(settings, channels)
        predictor = BoxPredictor(
            box_head.out_channels * (2 if heads.global_context else 1),
            num_classes,
            class_agnostic=heads.class_agnostic,
            background=heads.background,
        )
        return list(specs), pooler, box_head, predictor

    if cascade is None:
        return RoIHeads(*parts(), **options)
    *earlier, last = (
        options | {"positive_iou": iou, "negative_iou": iou, "box_coder_weights": weights}
        for iou, weights in zip(cascade.positive_ious, cascade.box_coder_weights, strict=True)
    )
    stages = [RoIHeads(*parts(), **stage) for stage in earlier]
    return CascadeRoIHeads(*parts(), earlier_stages=stages, loss_weights=cascade.loss_weights, **last)


def _build_box_head(settings: model_settings.FasterRCNNSettings, channels: int) -> FCHead | ConvFCHead | Conv5Head:
    head, size = settings.roi_heads.box_head, settings.roi_heads.pool.output_size
    options = head.model_dump(exclude={"type"})
    match head:
        case model_settings.FCHead():
            return FCHead(channels, size, **options)
        case model_settings.ConvFCHead():
            return ConvFCHead(channels, size, **options)
        case _:
            conv5 = conv5_stage(**settings.backbone.model_dump(exclude={"type", "weights"}))
            return Conv5Head(conv5, conv5.out_channels)


def build_localizer(settings: LocalizerSettings, num_classes: int) -> Localizer:
    """The localizer that `model` describes, randomly initialised, for `num_classes` classes."""
    others = settings.model_dump(exclude={"type", "backbone", "pixels", "anchors", "sampling", "weights"})
    return Localizer(
        PixelNormalizer(**settings.pixels.model_dump()),
        build_backbone(settings.backbone),
        AnchorGenerator([settings.anchors.sizes], settings.anchors.aspect_ratios),
        num_classes,
        **others,
        **settings.sampling.model_dump(),
    )


def build_model(config: Config, num_classes: int) -> Network:
    """The network that `model` describes, initialised at random from the config's seed."""
    torch.manual_seed(config.seed)
    settings = config.model
    if isinstance(settings, model_settings.FasterRCNNSettings):
        return build_detector(settings, num_classes)
    if isinstance(settings, LocalizerSettings):
        return build_localizer(settings, num_classes)
    backbone = build_backbone(settings.backbone)
    return Classifier(
        backbone,
        num_classes,
        head=_build_classifier_head(settings.head, backbone),
        pixels=PixelNormalizer(**settings.pixels.model_dump()),
        label_smoothing=settings.label_smoothing,
        dropout=settings.dropout,
        mixing=None if settings.mixing is None else Mixing(**settings.mixing.model_dump()),
    )


def _build_classifier_head(settings: model_settings.LinearHead | model_settings.VGGHead, backbone: Backbone) -> Any:
    if isinstance(settings, model_settings.LinearHead):
        return None
    last = list(backbone.feature_specs.values())[-1]
    return VGGHead(last.channels, **settings.model_dump(exclude={"type"}))


def load_initial_weights(model: Network, config: Config, class_names: Sequence[str]) -> list[LoadReport]:
    """Load what `model.weights` (a whole model) or else `model.backbone.weights` name; one report for each file."""
    if config.model.weights is not None:
        found = read_state_dict(config.model.weights)
        report = load_whole_model(model, _grown(found, model), class_names)
        warn_of_differences(found, config)
        return [report]
    if config.model.backbone.weights == PRETRAINED:
        return [_load_own_weights(model, config)]
    if config.model.backbone.weights is not None:
        found = read_state_dict(config.model.backbone.weights)
        report = load_backbone(model, found)
        warn_of_differences(found, config)
        return [report]
    return []


def _grown(found: LoadedWeights, model: Network) -> LoadedWeights:
    """Weights of a plain detector with what a cascade or global context of `model` begins with."""
    state_dict, how = grow_second_stage(found.state_dict, model.state_dict())
    return replace(found, state_dict=state_dict, source=f"{found.source}, {how}") if how else found


def _load_own_weights(model: Network, config: Config) -> LoadReport:
    """Load the weights that the library of a backbone of its own publishes for it (detres.integrations)."""
    backbone: Any = getattr(model.backbone, "body", model.backbone)
    if not hasattr(backbone, "load_pretrained"):
        raise ValueError(
            f"model.backbone.weights: got {PRETRAINED}, expected a file or a name such as "
            f"torchvision:ResNet50_Weights.IMAGENET1K_V2: {type(backbone).__name__} has no load_pretrained(), which "
            "the backbones of detres.integrations.torchvision and .timm have"
        )
    try:
        source: str = backbone.load_pretrained()
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model.backbone.weights: {PRETRAINED}: the weights of {type(backbone).__name__} could not be fetched "
            f"({reason}). Without a network, name a file (model.backbone.weights=FILE; for timm also "
            "args.pretrained_cfg_overlay: {file: FILE}), or null to begin from random weights"
        ) from error
    pixels = backbone.pretrained_pixels() if hasattr(backbone, "pretrained_pixels") else {}
    warn_of_differences(LoadedWeights({}, source=source, implied=Implied({"pixels": pixels})), config)
    return LoadReport(source, tuple(LoadRow(f"backbone.{key}", "loaded") for key in backbone.state_dict()))


def warn_of_differences(found: LoadedWeights, config: Config) -> None:
    """Warn when the configured model computes something else from the weights than the one that they were made with."""
    model = config.model.model_dump()
    mismatches = [pixel_mismatch(found, model["pixels"]), backbone_mismatch(found, model["backbone"])]
    if config.model.weights is not None:
        mismatches.append(detector_mismatch(found, model))
    for mismatch in mismatches:
        if mismatch is not None:
            warnings.warn(mismatch, stacklevel=3)


def load_whole_model(model: Network, found: LoadedWeights, class_names: Sequence[str]) -> LoadReport:
    """Copy weights of the same architecture into `model`, the head by the class names of both.

    Those of a localizer must have the same classes in the same order: WeightsError otherwise.
    """
    if isinstance(model, Localizer) and found.class_names and found.class_names != tuple(class_names):
        raise WeightsError(
            f"{found.source}: a localizer of {len(found.class_names)} classes ({shorten(found.class_names, 3)}), "
            f"expected the {len(class_names)} of the model ({shorten(class_names, 3)}) in their order; start from its "
            "backbone: model.backbone.weights"
        )
    return load_weights(
        model,
        found.state_dict,
        class_names=class_names,
        source_class_names=found.class_names,
        source_background=found.background,
        source=found.source,
    )

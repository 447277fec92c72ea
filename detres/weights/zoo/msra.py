"""The ImageNet weights that detectron2's baselines start from: MSRA's ResNets, FAIR's ResNeXt and group norm ResNets.

Source: detectron2's MODEL_ZOO.md ("ImageNet Pretrained Models"). The results are complements of the errors (one crop)
that github.com/KaimingHe/deep-residual-networks and Detectron's projects/GN give. Nobody gives checksums.
"""

from detres.weights.zoo.entry import Entry, Metric

LICENCE = "CC BY-SA 3.0"  # of all that MODEL_ZOO.md links to
PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"  # whose format detectron2 reads too

_BGR = ("model.pixels.channel_order=bgr", "model.pixels.mean=[103.53, 116.28, 123.675]")
_PLAIN = (*_BGR, "model.pixels.std=[1.0, 1.0, 1.0]")
_IN_3X3 = "model.backbone.stride_in_1x1=false"
MSRA = (*_PLAIN, "model.backbone.stride_in_1x1=true")
FAIR = (*_BGR, "model.pixels.std=[57.375, 57.12, 58.395]", _IN_3X3)
_GROUP_NORM = (*_PLAIN, _IN_3X3, "model.backbone.norm=group")
_RESNEXT = (*FAIR, "model.backbone.groups=32", "model.backbone.width_per_group=8")


def started_from(model: str) -> tuple[str, ...]:
    """The settings of a detector that started from the entry msra/`model`, a ResNet of MSRA or a ResNeXt of FAIR."""
    return (*(FAIR if model.startswith("X") else MSRA), f"model.backbone.weights=zoo:msra/{model}")


def entries() -> list[Entry]:
    """All of them."""
    return [
        _entry(f"{PREFIX}ImageNetPretrained/MSRA/R-50.pkl", MSRA, 75.3),
        _entry(f"{PREFIX}ImageNetPretrained/MSRA/R-101.pkl", MSRA, 76.4),
        _entry(f"{PREFIX}ImageNetPretrained/FAIR/X-101-32x8d.pkl", _RESNEXT, None),
        _entry(f"{_DETECTRON}ImageNetPretrained/47261647/R-50-GN.pkl", _GROUP_NORM, 76.0),
        _entry(f"{_DETECTRON}ImageNetPretrained/47592356/R-101-GN.pkl", _GROUP_NORM, 77.4),
    ]


def _entry(url: str, settings: tuple[str, ...], percent: float | None) -> Entry:
    model = url.rpartition("/")[2].removesuffix(".pkl")
    return Entry(
        name=f"msra/{model}",
        url=url,
        format="msra",
        kind="classifier",
        dataset="ImageNet",
        config=f"paper/imagenet_resnet{101 if '101' in model else 50}.yaml",
        overrides=settings,
        metric=None if percent is None else Metric("top-1", percent),
        licence=LICENCE,
    )

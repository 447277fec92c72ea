"""Class names that a foreign detector implies by their number: COCO's 80 and PASCAL VOC's 20, in label order."""

COCO_CLASSES, VOC_CLASSES = 80, 20

VOC_20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def coco_80() -> tuple[str, ...]:
    """COCO's 80 classes in the order of their category ids, as detectron2 and mmdetection number them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # with the unused ids among them
    return tuple(name for name in names if name not in ("__background__", "N/A"))


def names_by_number(num_classes: int) -> tuple[tuple[str, ...], str]:
    """The names of COCO's 80 or of VOC's 20 classes and the sentence that says so; nothing for any other number."""
    if num_classes == COCO_CLASSES:
        return coco_80(), "80 classes: COCO's, in the order of their category ids"
    if num_classes == VOC_CLASSES:
        return VOC_20, "20 classes: PASCAL VOC's, in alphabetical order"
    return (), ""

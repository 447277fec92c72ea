"""detectron2's Faster R-CNNs.

Source: detectron2's model_zoo/model_zoo.py (addresses), MODEL_ZOO.md (results; "any model on this page contains its
md5 prefix in its file name") and configs/.
"""

from typing import NamedTuple

from detres.weights.zoo.entry import Entry, Metric
from detres.weights.zoo.msra import LICENCE, PREFIX, started_from

_COCO, _VOC, _COMPARISONS = "COCO-Detection", "PascalVOC-Detection", "Detectron1-Comparisons"
_AS_DETECTRON1 = (
    "data.train_transforms.0.short=[800]",
    "model.rpn.box_loss=smooth_l1",
    "model.rpn.smooth_l1_beta=0.1111",
    "model.roi_heads.box_loss=smooth_l1",
    "model.roi_heads.smooth_l1_beta=1.0",
    "model.roi_heads.pool.sampling_ratio=2",
    "model.roi_heads.pool.aligned=false",
)


class _Row(NamedTuple):
    model: str
    file: str  # run/checksum
    percent: float
    config: str
    settings: tuple[str, ...] = ()
    folder: str = _COCO


_ROWS = (
    _Row("faster_rcnn_R_50_C4_1x", "137257644/721ade", 35.7, "coco_r50_c4"),
    _Row("faster_rcnn_R_50_DC5_1x", "137847829/51d356", 37.3, "coco_r50_dc5"),
    _Row("faster_rcnn_R_50_FPN_1x", "137257794/b275ba", 37.9, "coco_r50"),
    _Row("faster_rcnn_R_50_C4_3x", "137849393/f97cb7", 38.4, "coco_r50_c4_3x"),
    _Row("faster_rcnn_R_50_DC5_3x", "137849425/68d202", 39.0, "coco_r50_dc5_3x"),
    _Row("faster_rcnn_R_50_FPN_3x", "137849458/280758", 40.2, "coco_r50_3x"),
    _Row("faster_rcnn_R_101_C4_3x", "138204752/298dad", 41.1, "coco_r101_c4_3x"),
    _Row("faster_rcnn_R_101_DC5_3x", "138204841/3e0943", 40.6, "coco_r101_dc5_3x"),
    _Row("faster_rcnn_R_101_FPN_3x", "137851257/f6e8b1", 42.0, "coco_r101_3x"),
    _Row("faster_rcnn_X_101_32x8d_FPN_3x", "139173657/68b088", 43.0, "coco_x101_3x"),
    _Row("faster_rcnn_R_50_FPN_noaug_1x", "137781054/7ab50c", 36.9, "coco_r50", _AS_DETECTRON1, _COMPARISONS),
    _Row("faster_rcnn_R_50_C4", "142202221/b1acc2", 80.3, "voc_r50_c4", folder=_VOC),
)


def entries() -> list[Entry]:
    """All of them; the names tell them apart without their folders."""
    return [_entry(row) for row in _ROWS]


def _entry(row: _Row) -> Entry:
    run, _, digits = row.file.partition("/")
    start = "X-101-32x8d" if "_X_" in row.model else "R-101" if "_R_101_" in row.model else "R-50"
    is_voc = row.folder == _VOC
    return Entry(
        name=f"detectron2/{row.model}",
        url=f"{PREFIX}{row.folder}/{row.model}/{run}/model_final_{digits}.pkl",
        format="detectron2",
        kind="detector",
        dataset="PASCAL VOC 07+12" if is_voc else "COCO",
        config=f"{row.config}.yaml",
        overrides=(*started_from(start), *row.settings),
        checksum=f"md5:{digits}",
        metric=Metric("AP50 (11-point)" if is_voc else "box AP", row.percent),
        licence=LICENCE,
    )

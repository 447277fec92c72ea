"""mmdetection's Faster R-CNNs on plain ResNets and ResNeXts.

Source: the metafile.yml of its configs/ of version 3.3.0 (names, addresses, results; for PASCAL VOC and Cityscapes the
README.md) and the configurations named there; for the pixels of r101-caffe_fpn_ms-3x that of version 2, with which the
file was made (in 3.3.0 it lacks them). A file's name ends with the first digits of its sha256.

Left out: networks that detres does not build (deformable convolutions, attention, weight standardisation, other
pyramids, HRNet, RegNet, Res2Net, ResNeSt ...), and the detectors inside of trackers and of semi-supervised teachers.
"""

from detres.weights.zoo.entry import Entry, Metric, sha256_in
from detres.weights.zoo.mmdetection_settings import CONVENTIONS, PARTS

_PREFIX = "https://download.openmmlab.com/mmdetection/v2.0/"

# Model (after "faster-rcnn_"), end of the file's name (or all of its path), result, configuration, its settings.
_COCO = """
r50-caffe-c4_1x_coco _20220316_150152-3f885b85 35.6 coco_r50_c4 caffe50 1x
r50-caffe-c4_mstrain_1x_coco _20220316_150527-db276fed 35.9 coco_r50_c4 caffe50 ms-1x
r50-caffe-dc5_1x_coco _20201030_151909-531f0f43 37.2 coco_r50_dc5 caffe50 dc5 1x
r50-caffe-dc5_mstrain_1x_coco _20201028_233851-b33d21b9 37.4 coco_r50_dc5 caffe50 dc5 ms-1x
r50-caffe-dc5_mstrain_3x_coco _20201028_002107-34a53b2c 38.7 coco_r50_dc5 caffe50 dc5 ms-3x
r50-caffe_fpn_1x_coco _bbox_mAP-0.378_20200504_180032-c5925ee5 37.8 coco_r50 caffe50 1x
r50-caffe_fpn_ms-2x_coco _bbox_mAP-0.397_20200504_231813-10b2de58 39.7 coco_r50 caffe50 ms-2x
r50-caffe_fpn_ms-3x_coco _20210526_095054-1f77628b 39.9 coco_r50 caffe50 range-3x
r50_fpn_1x_coco _20200130-047c8118 37.4 coco_r50 pytorch 1x
r50_fpn_fp16_1x_coco fp16/{stem}/{stem}_20200204-d4dc1471 37.5 coco_r50 pytorch 1x fp16
r50_fpn_2x_coco _bbox_mAP-0.384_20200504_210434-a5d8aa15 38.4 coco_r50 pytorch 2x
r50_fpn_mstrain_3x_coco _20210524_110822-e10bd31c 40.3 coco_r50 pytorch range-3x
r50_fpn_iou_1x_coco _20200506_095954-938e81f0 37.9 coco_r50 pytorch 1x iou
r50_fpn_giou_1x_coco faster_rcnn/faster_rcnn_r50_fpn_1x_coco/{stem}-0eada910 37.6 coco_r50 pytorch 1x giou
r50_fpn_bounded_iou_1x_coco faster_rcnn/faster_rcnn_r50_fpn_1x_coco/{stem}-98ad993b 37.4 coco_r50 pytorch 1x bounded_iou
r50_fpn_tnr-pretrain_1x_coco _20220320_085147-efedfda4 40.2 coco_r50 pytorch 1x tnr
r50_fpn_rsb-pretrain_1x_coco resnet_strikes_back/{stem}/{stem}_20220113_162229-32ae82a9 40.8 coco_r50 pytorch 1x rsb
r50_fpn_gn-all_scratch_6x_coco \
scratch/{stem}/scratch_faster_rcnn_r50_fpn_gn_6x_bbox_mAP-0.407_20200201_193013-90813d01 40.7 coco_r50 group_norm 6x
r101-caffe_fpn_1x_coco _bbox_mAP-0.398_20200504_180057-b269e9dd 39.8 coco_r101 caffe101 1x
r101-caffe_fpn_ms-3x_coco _20210526_095742-a7ae426d 42.0 coco_r101 caffe101 range-3x
r101_fpn_1x_coco _20200130-f513f705 39.4 coco_r101 pytorch 1x
r101_fpn_2x_coco _bbox_mAP-0.398_20200504_210455-1d2dac9c 39.8 coco_r101 pytorch 2x
r101_fpn_ms-3x_coco _20210524_110822-4d4d2ca8 41.8 coco_r101 pytorch range-3x
x101-32x4d_fpn_1x_coco _20200203-cff10310 41.2 coco_x101 pytorch 32x4d 1x
x101-32x4d_fpn_2x_coco _bbox_mAP-0.412_20200506_041400-64a12c0b 41.2 coco_x101 pytorch 32x4d 2x
x101-32x4d_fpn_ms-3x_coco _20210524_124151-16b9b260 42.5 coco_x101 pytorch 32x4d range-3x
x101-32x8d_fpn_ms-3x_coco _20210604_182954-002e082a 42.4 coco_x101 caffe32x8d range-3x
x101-64x4d_fpn_1x_coco _20200204-833ee192 42.1 coco_x101 pytorch 64x4d 1x
x101-64x4d_fpn_2x_coco _20200512_161033-5961fa95 41.6 coco_x101 pytorch 64x4d 2x
x101-64x4d_fpn_ms-3x_coco _20210524_124528-26c63de6 43.1 coco_x101 pytorch 64x4d range-3x
"""
_PERSON = """
r50-caffe_fpn_ms-1x_coco-person \
faster_rcnn/{old}r50_fpn_1x_coco-person/{old}r50_fpn_1x_coco-person_20201216_175929-d022e227 \
55.8 coco_r50 caffe50 ms-1x some_classes
"""
_TRAFFIC = """
r50-caffe_fpn_ms-1x_coco-person-bicycle-car \
faster_rcnn/{old}r50_fpn_1x_coco-person-bicycle-car/{old}r50_fpn_1x_coco-person-bicycle-car_20201216_173117-6eda6d92 \
44.1 coco_r50 caffe50 ms-1x some_classes
"""
_VOC = """
r50_fpn_1x_voc0712 pascal_voc/{stem}/{stem}_20220320_192712-54bef0f3 80.4 voc_r50 pytorch voc
r50-caffe-c4_ms-18k_voc0712 pascal_voc/{stem}/{stem}_20220314_234327-847a14d2 80.9 voc_r50_c4 caffe50 voc_c4
"""
_CITYSCAPES = "r50_fpn_1x_cityscapes cityscapes/{stem}_20200502-829424c0 40.3 coco_r50 pytorch cityscapes"
_OBJECTS_V1 = """
r50_fpn_16xb4-1x_objects365v1 \
objects365/{old}r50_fpn_16x4_1x_obj365v1/{old}r50_fpn_16x4_1x_obj365v1_20221219_181226-9ff10f95 \
19.6 coco_r50 pytorch objects365v1 objects_1x
r50-syncbn_fpn_1350k_objects365v1 \
objects365/{old}r50_fpn_syncbn_1350k_obj365v1/{old}r50_fpn_syncbn_1350k_obj365v1_20220510_142457-337d8965 \
22.3 coco_r50 pytorch objects365v1 objects_long
"""
_OBJECTS_V2 = """
r50_fpn_16xb4-1x_objects365v2 \
objects365/{old}r50_fpn_16x4_1x_obj365v2/{old}r50_fpn_16x4_1x_obj365v2_20221220_175040-5910b015 \
19.8 coco_r50 pytorch objects365v2 objects_1x
"""
_OPEN_IMAGES = """
r50_fpn_32x2_1x_openimages openimages/{stem}/{stem}_20211130_231159-e87ab7ce 51.6 coco_r50 pytorch open_images
r50_fpn_32x2_cas_1x_openimages openimages/{stem}/{stem}_20220306_202424-98c630e5 \
60.0 coco_r50 pytorch open_images class_aware
"""
_CHALLENGE = """
r50_fpn_32x2_1x_openimages_challenge openimages/{stem}/{stem}_20220114_045100-0e79e5df \
54.9 coco_r50 pytorch open_images challenge
r50_fpn_32x2_cas_1x_openimages_challenge openimages/{stem}/{stem}_20220221_192021-34c402d9 \
65.0 coco_r50 pytorch open_images challenge class_aware
"""
_TABLES = (
    ("COCO", "box AP", _COCO),
    ("COCO's persons", "box AP", _PERSON),
    ("COCO's persons, bicycles and cars", "box AP", _TRAFFIC),
    ("PASCAL VOC 07+12", "AP50 (11-point)", _VOC),
    ("Cityscapes", "box AP", _CITYSCAPES),
    ("Objects365 v1", "box AP", _OBJECTS_V1),
    ("Objects365 v2", "box AP", _OBJECTS_V2),
    ("Open Images v6", "AP50 (Open Images)", _OPEN_IMAGES),
    ("Open Images Challenge 2019", "AP50 (Open Images)", _CHALLENGE),
)


def entries() -> list[Entry]:
    """All of them."""
    return [
        _entry(dataset, metric, *row.split())
        for dataset, metric, table in _TABLES
        for row in table.strip().splitlines()
    ]


def _entry(dataset: str, metric: str, model: str, file: str, percent: str, config: str, *parts: str) -> Entry:
    url = _url(model, file)
    chosen = [PARTS[name] for name in parts]
    return Entry(
        name=f"mmdetection/faster-rcnn_{model}",
        url=url,
        format="mmdetection",
        kind="detector",
        dataset=dataset,
        config=f"{config}.yaml",
        overrides=(*CONVENTIONS, *(setting for part in chosen for setting in part.settings)),
        checksum=sha256_in(url),
        metric=Metric(metric, float(percent)),
        licence="Apache-2.0",
        notes=tuple(note for part in chosen for note in part.notes),
    )


def _url(model: str, file: str) -> str:
    """Models were renamed; folders and files kept the names that they had: "mstrain_" for "ms-", and no hyphens."""
    old = model.replace("ms-", "mstrain_").replace("-", "_")
    for kept in ("tnr-pretrain", "rsb-pretrain", "gn-all"):
        old = old.replace(kept.replace("-", "_"), kept)
    stem = f"faster_rcnn_{old}"
    path = file if "/" in file else f"faster_rcnn/{{stem}}/{{stem}}{file}"
    return f"{_PREFIX}{path.format(stem=stem, old='faster_rcnn_')}.pth"

"""Small whole files of every kind, for the mutators to damage."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

COCO = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 100, "width": 200},
        {"id": "two", "file_name": "b/c.jpg", "height": 50, "width": 50},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 30.5, 40], "area": 100.0, "iscrowd": 0},
        {"id": 2, "image_id": "two", "category_id": 7, "bbox": [0, 0, 50, 50], "segmentation": [[0, 0, 1, 1, 2, 2]]},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
}
SICK = {  # for the doctor, who looks into the image too
    "images": [{"id": 1, "file_name": "input.jpg", "height": 24, "width": 32}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 10], "area": 200}],
    "categories": [{"id": 1, "name": "cat"}],
}
RESULTS = [
    {"image_id": 1, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.9},
    {"image_id": "two", "category_id": 7, "bbox": [0, 0, 5, 5], "score": 0.5},
]
VOC = """<annotation><folder>VOC</folder><filename>input.jpg</filename>
<size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30.5</xmax><ymax>40</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object></annotation>"""
CONFIG = """\
base: [base/schedule_1x.yaml]
model:
  type: faster_rcnn
  backbone: {type: resnet, depth: 50, out_features: [c2, c3, c4, c5]}
  neck: {channels: 64}
  anchors: {sizes: [[32], [64], [128], [256], [512]], aspect_ratios: [0.5, 1.0, 2.0]}
  roi_heads: {box_head: {type: fc, channels: 128}, cascade: {}}
data:
  train: [{type: coco, annotations: a.json, images: a, image_ids: [1, 2]}, {type: voc, root: r, split: train}]
  val: {type: own, annotations: null}
  train_transforms: [{type: resize_shortest, short: [320], max: 400}, {type: horizontal_flip, p: 0.5}]
train: {batch_size: 2, steps: 10, optimizer: {type: sgd, lr: 0.1}, schedule: {type: constant}}
eval: {metric: coco, box_refinement: {}, multi_scale: {}}
"""
DETECTOR = """\
model: {type: faster_rcnn, backbone: {type: resnet, depth: 18}, neck: {}}
train: {batch_size: 1, steps: 1, optimizer: {type: sgd, lr: 0.1}, schedule: {type: constant}}
"""
OVERRIDES = ["train.batch_size=8", "data.train_transforms.0.short=[256]", "model.backbone={type: vgg, depth: 13}"]
BOX_LIST = "input.jpg n0 4 0 60 55\n"
LABELS = "image,class\nn0_1.jpg,n0\nn1_2.jpg,n1 1 2 3 4\n"
METRICS = '{"kind": "train", "step": 1, "loss": 0.5}\n{"kind": "val", "step": 2, "AP": null}\n'
CLASSIFIER = {
    "model": {"type": "classifier", "backbone": {"type": "cifar_resnet", "depth": 8, "out_features": ["c2"]}},
    "data": {
        "train": [{"type": "cifar10", "root": "cifar10", "split": "train"}],
        "val": {"type": "cifar10", "root": "cifar10", "split": "val"},
    },
    "train": {
        "batch_size": 2,
        "steps": 10,
        "optimizer": {"type": "sgd", "lr": 0.1},
        "schedule": {"type": "constant"},
    },
    "eval": {"metric": "classification"},
}


class Payload:
    """Makes the folder "ran" when pickle itself reads it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def state_dict() -> dict[str, Any]:
    """A few tensors as toolkits save them."""
    return {"conv1.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2, dtype=torch.float16)}


def torch_files() -> list[bytes]:
    """Zip and older, plain and with what a training script puts beside the weights."""
    contents = [state_dict(), {"state_dict": state_dict(), "meta": {"config": "a = dict(b=[1, 2])", "CLASSES": ("x",)}}]
    contents.append({**contents[1], "x": Payload()})
    return [torch_bytes(content, zipped) for content in contents for zipped in (True, False)]


def torch_bytes(content: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def pickles() -> list[bytes]:
    """detectron2's form in every protocol, and one that wants to run something."""
    content = {"model": {"w": np.ones((2, 3), np.float32), b"b": np.zeros(2)}, "n": [np.float32(1), (1, 2.0), {1}]}
    return [pickle.dumps(content, protocol) for protocol in range(6)] + [pickle.dumps(Payload(), 2)]


def npz_files() -> list[bytes]:
    """Plain and compressed."""
    files = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, **{"a.weight": np.ones((2, 3), np.float32), "b": np.arange(4)})
        files.append(file.getvalue())
    return files


def safetensors_file() -> bytes:
    """Two tensors and a note."""
    return save(state_dict(), {"detres": "{}"})


def caffemodel() -> bytes:
    """One layer with a blob of two numbers."""
    blob = b"\x3a\x02\x08\x02" + b"\x2a\x08" + struct.pack("<2f", 1.0, 2.0)
    layer = b"\x0a\x05conv1" + b"\x3a" + bytes([len(blob)]) + blob
    return b"\xa2\x06" + bytes([len(layer)]) + layer


def images() -> list[bytes]:
    """One picture in every format that cameras and programs write."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    files = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        picture.save(file, kind)
        files.append(file.getvalue())
    return files


MEMBERS = [("data/", b""), ("data/a.json", json.dumps(COCO).encode()), ("data/b/c.txt", b"text" * 200)]


def zip_file() -> bytes:
    """A folder and two files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS:
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def tar_files() -> list[bytes]:
    """The same two files, in the forms that programs write."""
    files = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, content in MEMBERS[1:]:
                entry = tarfile.TarInfo(name if form == tarfile.PAX_FORMAT else f"{'long' * 40}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        files.append(file.getvalue())
    return files

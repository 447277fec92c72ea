"""The input pipeline with boxes compared: detres's loader against Pillow and torchvision.transforms.v2, on one core.

From JPEG files to normalised pixels: the shorter side 800, the longer at most 1333, mirrored at random.
Shapes: G boxes of an image, H x W its pixels.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detres.config import Config, load_config
from detres.data.scene import resize_image, shortest_edge_size
from detres.jobs.benchmark.agreement import DifferentWork
from detres.jobs.benchmark.conditions import OURS, Conditions, one_thread
from detres.jobs.benchmark.contest import describe_sides
from detres.jobs.benchmark.parts import measure_parts
from detres.jobs.benchmark.pictures import photo_folder
from detres.jobs.benchmark.timing import Lap, Side, compare, measure
from detres.layers.pixels import PixelNormalizer
from detres.structures import Batch, ImageBatch
from detres.wiring import build_train_dataset, build_train_loader

MODEL = "input pipeline with boxes"
SHORT, LONGEST = 800, 1333
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BOXES = 8
_CHECKED = 6
_BOX_TOLERANCE = 1.5  # pixels: torchvision rounds the new size down, detres to the nearest
_PIXEL_TOLERANCE = 4.0  # grey levels of 255, the mean over an image
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Photos:
    """Image files below `folder`, each with boxes (G, 4) xyxy of its own, and a COCO file that says so."""

    folder: Path
    files: list[Path]
    boxes: list[Tensor]
    annotations: Path

    def first(self, count: int, annotations: Path) -> "Photos":
        """Only so many of them."""
        return annotate(self.folder, self.files[:count], annotations)


def annotate(folder: Path, files: Sequence[Path], annotations: Path) -> Photos:
    """Eight random boxes for each file, written to `annotations`."""
    generator = torch.Generator().manual_seed(13)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    boxes: list[Tensor] = []
    for index, file in enumerate(files):
        with Image.open(file) as image:
            width, height = image.size
        size = torch.tensor([width, height])
        extent = size * (0.1 + 0.4 * torch.rand(_BOXES, 2, generator=generator))
        corner = (size - extent) * torch.rand(_BOXES, 2, generator=generator)
        boxes.append(torch.cat([corner, corner + extent], dim=1))
        name = file.relative_to(folder).as_posix()
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for box in torch.cat([corner, extent], dim=1).tolist():
            area = box[2] * box[3]
            row = {"id": len(rows), "image_id": index, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
            rows.append(row)
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "thing"}]}
    annotations.write_text(json.dumps(content), encoding="utf-8")
    return Photos(folder, list(files), boxes, annotations)


def compare_loading(conditions: Conditions, data: str | None, most: int) -> dict[str, Any]:
    """Seconds of both sides on at most `most` files, and of the calls alone that ours is made of.

    Raises DifferentWork, ValueError without files.
    """
    with tempfile.TemporaryDirectory() as temporary, one_thread():
        photos, source = _find(data, Path(temporary), most)
        conditions.progress(f"data, {len(photos.files)} files, {source}: do both sides compute the same?")
        same = check_same(photos.first(_CHECKED, Path(temporary) / "checked.json"))
        sides = {
            "torchvision": Side(
                _their_pass(photos), {}, conditions.allocator_of("torchvision"), {"pipeline": "PIL, transforms.v2"}
            ),
            OURS: Side(_our_pass(photos), {}, conditions.allocator_of(OURS), {"pipeline": "detres's TrainLoader"}),
        }
        cpu = torch.device("cpu")
        figures = compare(sides, conditions.repeats, cpu, conditions.progress)
        parts = measure_parts(sides, min(conditions.repeats, 3), cpu)
        alone = measure(Side(_calls_alone(photos), allocator=sides[OURS].allocator), conditions.repeats, cpu)
    return {
        "size_hw": [SHORT, LONGEST],
        "batch_size": len(photos.files),
        "input": source,
        "same": same,
        "sides": describe_sides(sides),
        **figures,
        "calls_alone": alone,
        "parts": parts,
    }


def _find(data: str | None, temporary: Path, most: int) -> tuple[Photos, str]:
    folder, source = (Path(data), data) if data is not None else photo_folder(temporary, min(most, 16))
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of photos with --data")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)[:most]
    if not files:
        raise ValueError(f"{folder}: no image file ({', '.join(_SUFFIXES)}) in it; give a folder of photos with --data")
    return annotate(folder, files, temporary / "photos.json"), source


def our_config(photos: Photos, flip: float = 0.5) -> Config:
    """The configuration of a COCO training whose loader reads those files, one by one."""
    dataset = f"{{type: coco, annotations: {photos.annotations}, images: {photos.folder.resolve()}}}"
    resize = f"{{type: resize_shortest, short: [{SHORT}], max: {LONGEST}}}"
    overrides = [
        f"data.train={dataset}",
        f"data.val={dataset}",
        f"data.train_transforms=[{resize}, {{type: horizontal_flip, p: {flip}}}]",
        "data.workers=0",
        "train.batch_size=1",
    ]
    return load_config("coco_r50.yaml", overrides).config


def our_stream(config: Config) -> Iterator[Batch]:
    """Batches of one image, every image once an epoch."""
    return build_train_loader(config, build_train_dataset(config)).stream()


def our_normalizer(config: Config) -> PixelNormalizer:
    """What the model does first; it belongs to the way from a file to what the network sees."""
    return PixelNormalizer(**config.model.pixels.model_dump())


def _our_pass(photos: Photos) -> Callable[[Lap], None]:
    config = our_config(photos)
    stream, normalise = our_stream(config), our_normalizer(config)

    def run(lap: Lap) -> None:
        for _ in photos.files:
            batch = next(stream)
            lap("loading")
            normalise(batch.images)
            lap("input")

    return run


def _calls_alone(photos: Photos) -> Callable[[Lap], None]:
    """The three calls that our side cannot do without, and nothing around them: no boxes, mirroring or padding."""
    from torchvision.io import ImageReadMode, decode_image

    normalise = our_normalizer(our_config(photos))

    def run(_lap: Lap) -> None:
        for file in photos.files:
            pixels = decode_image(torch.from_numpy(np.fromfile(file, np.uint8)), ImageReadMode.RGB)
            size_hw = shortest_edge_size(pixels.shape[1:], SHORT, LONGEST)
            resized = torch.from_numpy(resize_image(pixels.permute(1, 2, 0).numpy(), size_hw)).permute(2, 0, 1)
            sizes, seeds = torch.tensor([size_hw]), torch.zeros(1, dtype=torch.int64)
            normalise(ImageBatch(resized[None], sizes, sizes, seeds))

    return run


def their_transforms(flip: float = 0.5) -> Any:
    """torchvision's reference for detection (references/detection/presets.py, v2), with the resizing of its model."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToImage(),  # first: half as fast again as resizing with Pillow
            v2.RandomShortestSize([SHORT], max_size=LONGEST),
            v2.RandomHorizontalFlip(flip),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )


def _their_pass(photos: Photos) -> Callable[[Lap], None]:
    transforms = their_transforms()

    def run(lap: Lap) -> None:
        for index in torch.randperm(len(photos.files)).tolist():
            image = _read(photos.files[index])
            lap("decoding")
            transforms(image, _their_target(image, photos.boxes[index]))
            lap("transforms")

    return run


def _read(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _their_target(image: Image.Image, boxes: Tensor) -> dict[str, Any]:
    from torchvision import tv_tensors

    wrapped: Any = tv_tensors.BoundingBoxes
    size = (image.height, image.width)
    return {"boxes": wrapped(boxes, format="XYXY", canvas_size=size), "labels": torch.zeros(len(boxes)).long()}


def check_same(photos: Photos) -> dict[str, Any]:
    """Boxes to 1.5 pixels, grey levels to 4 of 255 in the mean, unmirrored and mirrored. Raises DifferentWork."""
    worst_box = worst_pixel = 0.0
    std = 255 * torch.tensor(_STD)[:, None, None]
    for flip in (0.0, 1.0):
        config, transforms = our_config(photos, flip), their_transforms(flip)
        stream, normalise = our_stream(config), our_normalizer(config)
        for _ in photos.files:
            batch = next(stream)
            index = batch.image_ids[0]
            image = _read(photos.files[index])
            theirs, target = transforms(image, _their_target(image, photos.boxes[index]))
            targets: Any = batch.targets
            boxes, expected = targets.boxes_xyxy[0][targets.valid[0]], target["boxes"]
            height, width = (int(side) for side in batch.images.sizes_hw[0])
            ours = normalise(batch.images)[0, :, :height, :width]
            _check_forms(photos.files[index], theirs, ours, expected, boxes)
            worst_box = max(worst_box, float((boxes - expected).abs().max()))
            if theirs.shape == ours.shape:
                worst_pixel = max(worst_pixel, float(((ours - theirs) * std).abs().mean()))
    for what, found, most in (("boxes", worst_box, _BOX_TOLERANCE), ("pixels", worst_pixel, _PIXEL_TOLERANCE)):
        if found > most:
            raise DifferentWork(f"{what}: torchvision's and detres's differ by {found:.2f}, expected {most} or less")
    return {
        "boxes": {"difference": worst_box, "tolerance": _BOX_TOLERANCE},
        "grey levels": {"difference": worst_pixel, "tolerance": _PIXEL_TOLERANCE},
    }


def _check_forms(file: Path, theirs: Tensor, ours: Tensor, their_boxes: Tensor, our_boxes: Tensor) -> None:
    apart = max(abs(a - b) for a, b in zip(theirs.shape, ours.shape, strict=True))
    if apart > 1 or theirs.dtype != ours.dtype or their_boxes.shape != our_boxes.shape:
        forms = [(tuple(image.shape), image.dtype, len(b)) for image, b in ((theirs, their_boxes), (ours, our_boxes))]
        raise DifferentWork(f"{file}: torchvision gives {forms[0]}, detres {forms[1]} (form, dtype, boxes)")

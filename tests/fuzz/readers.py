"""Who reads what in a fuzz run: sample files, how they are damaged, and a function that reads one and uses it."""

import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

from detres.config import config_to_dict, load_config
from detres.config.loader import LoadedConfig, config_from_dict
from detres.config.overrides import parse_overrides
from detres.config.show import format_resolved
from detres.data.annotations import DetectionDataset
from detres.data.archives import extract
from detres.data.box_lists import BoxListDataset
from detres.data.coco import CocoDataset
from detres.data.flat_labels import read_flat_labels
from detres.data.image_io import read_image
from detres.data.own import XmlFolderDataset
from detres.engine.metrics_log import read_metrics
from detres.evaluation.results import detections_from_results, read_coco_results
from detres.files.restricted import read_pickle
from detres.jobs.doctor import doctor
from detres.weights.sources import read_state_dict
from detres.wiring.checkpoints import model_from_checkpoint
from tests.fuzz import samples
from tests.fuzz.mutations import (
    Mutator,
    by_structure,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_tar,
    mutate_value,
    mutate_xml,
    mutate_yaml,
    zip_mutator,
)


@dataclass(frozen=True)
class Reader:
    """A target of the fuzz run.

    name     what it is called
    suffix   of its files
    samples  whole files
    mutate   how one is damaged
    read     reads the file at a path and uses what comes of it
    """

    name: str
    suffix: str
    samples: list[bytes]
    mutate: Mutator
    read: Callable[[Path], Any]

    def input(self, seed: int, number: int) -> bytes:
        """The damaged file of that number: always the same one."""
        rng = Random(f"{seed}/{self.name}/{number}")
        return self.mutate(rng, rng.choice(self.samples))


def check_annotations(dataset: DetectionDataset) -> None:
    """What training relies on: boxes inside their image, with a size; labels among the classes."""
    for i in range(len(dataset)):
        (height, width), found = dataset.size_hw(i), dataset.annotations(i)
        boxes = found.boxes_xyxy
        assert height > 0 and width > 0 and dataset.file(i) and np.isfinite(boxes).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all() and (boxes >= 0).all()
        assert ((found.labels >= 0) & (found.labels < len(dataset.class_names))).all()
    json.dumps(dataset.ground_truth_coco(), allow_nan=False)


def _read_coco(path: Path) -> None:
    check_annotations(CocoDataset(path, path.parent))


def _read_voc(path: Path) -> None:
    check_annotations(XmlFolderDataset(path.parent, path.parent))


def _read_box_list(path: Path) -> None:
    check_annotations(BoxListDataset(path.parent, path))


def _read_config(path: Path) -> None:
    loaded = load_config(path)
    again = path.with_name("again.yaml")
    again.write_text(format_resolved(loaded), encoding="utf-8")
    try:
        assert load_config(again).config == loaded.config, "what is shown loads to something else"
    finally:
        again.unlink()


def _read_override(path: Path) -> None:
    parse_overrides([path.read_bytes().decode("utf-8", "surrogateescape")])


def _read_results(path: Path) -> None:
    found = detections_from_results(read_coco_results(path), [1, "two"], [3, 7], ["cat", "dog"], str(path))
    assert all(bool(torch.isfinite(each.boxes_xyxy).all()) and math.isfinite(each.scores.sum()) for each in found)


def _extract(path: Path) -> None:
    target = path.parent / "unpacked"
    try:
        extract(path, target)
        assert all(entry.is_file() or entry.is_dir() for entry in target.rglob("*")), "a link came out"
        assert not any(entry.is_symlink() for entry in target.rglob("*")), "a link came out"
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _consult_doctor(path: Path) -> None:
    data = {"type": "coco", "annotations": str(path), "images": str(path.parent)}
    config = config_from_dict({**yaml.safe_load(samples.DETECTOR), "data": {"train": data, "val": data}})
    made = path.parent / "made"
    try:
        doctor(LoadedConfig(config, {}, (), "fuzz"), output=made / "page", fix=made / "fixed", workers=1)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _load_torch(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


def _mutate_checkpoint(rng: Random, content: dict[str, Any]) -> dict[str, Any]:
    """Damage the configuration more often than the rest: there is more of it to read."""
    if rng.random() < 0.6:
        return {**content, "config": mutate_value(rng, content["config"])}
    return mutate_value(rng, content)  # type: ignore[no-any-return]


def _checkpoint() -> bytes:
    from detres.wiring.networks import build_model

    config = config_from_dict(samples.CLASSIFIER)
    model = build_model(config, 2).state_dict()
    parts = {"kind": "classifier", "config": config_to_dict(config), "class_names": ["x", "y"], "model": model}
    return samples.torch_bytes({"format": "detres", "version": 1, **parts, "ema": None})


def readers() -> list[Reader]:
    """All of them; the weights of a kind of files are those of its own reader."""
    zipped, torch_file = zip_mutator(compress=True), zip_mutator(compress=False)
    checkpoint = by_structure(_load_torch, samples.torch_bytes, _mutate_checkpoint)
    npz, archives = samples.npz_files(), [samples.zip_file()]
    torch_files = samples.torch_files()
    return [
        Reader("coco", ".json", [json.dumps(samples.COCO).encode()], mutate_json, _read_coco),
        Reader("doctor", ".json", [json.dumps(samples.SICK).encode()], mutate_json, _consult_doctor),
        Reader("voc", ".xml", [samples.VOC.encode()], mutate_xml, _read_voc),
        Reader("config", ".yaml", [samples.CONFIG.encode()], mutate_yaml, _read_config),
        Reader("override", ".txt", [text.encode() for text in samples.OVERRIDES], mutate_bytes, _read_override),
        Reader("checkpoint", ".pt", [_checkpoint()], checkpoint, model_from_checkpoint),
        Reader("torch", ".pth", torch_files[::2], torch_file, read_state_dict),
        Reader("torch_legacy", ".pth", torch_files[1::2], mutate_bytes, read_state_dict),
        Reader("pickle", ".pkl", samples.pickles(), mutate_bytes, read_pickle),
        Reader("safetensors", ".safetensors", [samples.safetensors_file()], mutate_safetensors, read_state_dict),
        Reader("npz", ".npz", npz, zipped, read_state_dict),
        Reader("caffemodel", ".caffemodel", [samples.caffemodel()], mutate_bytes, read_state_dict),
        Reader("results", ".json", [json.dumps(samples.RESULTS).encode()], mutate_json, _read_results),
        Reader("box_list", ".txt", [samples.BOX_LIST.encode()], mutate_bytes, _read_box_list),
        Reader("labels", ".csv", [samples.LABELS.encode()], mutate_bytes, read_flat_labels),
        Reader("metrics", ".jsonl", [samples.METRICS.encode()], mutate_bytes, read_metrics),
        Reader("image", ".png", samples.images(), mutate_bytes, read_image),
        Reader("zip", ".zip", archives, zipped, _extract),
        Reader("tar", ".tar", samples.tar_files(), mutate_tar, _extract),
    ]

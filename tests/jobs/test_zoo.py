"""The text of `detres zoo`."""

import shlex
from pathlib import Path

import pytest

from detres.config import load_config
from detres.jobs.zoo import details, table
from detres.weights import WeightsError
from detres.weights.zoo import entries, find, place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRES_CACHE", str(tmp_path))
    return tmp_path


def commands(name: str) -> dict[str, list[str]]:
    """The arguments of each command in the details, by the comment above it."""
    lines = details(name).splitlines()
    return {line: shlex.split(after) for line, after in zip(lines, lines[1:], strict=False) if line.startswith("# ")}


def test_nothing_found() -> None:
    with pytest.raises(WeightsError, match="did you mean .*faster_rcnn_R_50_FPN"):
        table("faster_rcnn_R50_FPN")
    with pytest.raises(WeightsError, match="no checkpoint of that name"):
        details("nothing")


def test_the_table_has_a_line_per_entry() -> None:
    lines = table().splitlines()
    assert lines[0].split() == ["checkpoint", "published", "checksum", "config", "cached"]
    assert len(lines) == 2 + len(entries()) + 2
    assert lines[-1] == f"{len(entries())} checkpoints; `detres zoo NAME` tells more about one"
    starts = {line.index(find(line.split()[0]).config) for line in lines[2:-2]}
    assert len(starts) == 1, "the columns are aligned"


def test_a_filter_and_what_is_cached() -> None:
    path = place(find("msra/R-50"))
    path.parent.mkdir(parents=True)
    path.touch()
    rows = {line.split()[0]: line for line in table("msra").splitlines()[2:-2]}
    assert len(rows) == 5
    assert rows["msra/R-50"].endswith("yes") and not rows["msra/R-101"].endswith("yes")
    assert "top-1 75.3" in rows["msra/R-50"] and "not published" in rows["msra/R-50"]
    assert f"in the cache: {path}" in details("msra/R-50")
    assert table("msra x-101").endswith("1 checkpoint; `detres zoo NAME` tells more about one")


def test_details_of_a_detector() -> None:
    name = "detectron2/faster_rcnn_R_50_FPN_3x"
    text = details(name)
    for part in ("box AP 40.2", "md5:280758", find(name).url, "CC BY-SA 3.0", "not in the cache", "trained on COCO"):
        assert part in text
    given = list(commands(name).values())
    assert ["detres", "predict", "--weights", f"zoo:{name}", "photo.jpg", "--output", "found"] in given
    assert ["detres", "convert", "--from", "detectron2", f"zoo:{name}", "--to", "detres", "out.pt"] in given
    train = next(command for command in given if command[1] == "train")
    assert train[2:4] == ["--config", "coco_r50_3x.yaml"]
    assert load_config(train[3], train[4:]).config.model.backbone.stride_in_1x1


@pytest.mark.parametrize("name", ["timm/resnet50d.ra4_e3600_r224_in1k", "msra/X-101-32x8d", "msra/R-101-GN"])
def test_details_of_a_classifier_say_how_a_detector_starts_from_it(name: str) -> None:
    given = commands(name)
    assert given["# train one like it from the start"][1] == "pretrain"
    start = given["# train a detector that starts from it"]
    assert start[:4] == ["detres", "train", "--config", "coco_r50.yaml"]
    detector = load_config(start[3], start[4:]).config.model
    classifier = load_config(find(name).config, find(name).overrides).config.model
    for key in ("depth", "groups", "width_per_group", "deep_stem", "avg_pool_shortcut", "stride_in_1x1"):
        assert getattr(detector.backbone, key) == getattr(classifier.backbone, key), key
    assert detector.backbone.weights == f"zoo:{name}"
    assert (detector.pixels.mean, detector.pixels.std) == (classifier.pixels.mean, classifier.pixels.std)


def test_notes_and_licences_are_told() -> None:
    assert "CC BY-NC 4.0" in details("timm/resnet50.fb_swsl_ig1b_ft_in1k")
    assert "BoundedIoULoss" in details("mmdetection/faster-rcnn_r50_fpn_bounded_iou_1x_coco")
    assert "pull/912" in details("torchvision/Wide_ResNet50_2_Weights.IMAGENET1K_V1")

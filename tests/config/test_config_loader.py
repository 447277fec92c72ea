"""load_config and `config show`: values, origins, and every configuration that ships."""

import re
from pathlib import Path

import pytest

from detres.config import config_to_dict, format_resolved, load_config
from detres.config.files import shipped_configs
from detres.config.show import format_scalar
from detres.config.yaml_reader import parse

SHIPPED = sorted(
    path.relative_to(shipped_configs()).as_posix()
    for path in shipped_configs().rglob("*.yaml")
    if path.parent.name != "base"
)


def test_origins_of_values() -> None:
    loaded = load_config("coco_r101.yaml", ["train.batch_size=8", "data.train_transforms.0.short=[256]"])
    assert loaded.name == "coco_r101"
    assert [path.name for path in loaded.files[-2:]] == ["coco_r50.yaml", "coco_r101.yaml"]
    assert loaded.config.train.batch_size == 8
    assert loaded.config.data.train_transforms[0].short == [256]
    where = {key: loaded.origins[key] for key in ("train.batch_size", "train.compile", "data.train_transforms.0.short")}
    assert where == {
        "train.batch_size": "override",
        "train.compile": "default",
        "data.train_transforms.0.short": "override",
    }
    assert re.search(r"coco_r101\.yaml:\d+$", loaded.origins["model.backbone.depth"])
    assert re.search(r"faster_rcnn_fpn\.yaml:\d+$", loaded.origins["model.backbone.norm"])
    assert re.search(r"coco_detection\.yaml:\d+$", loaded.origins["data.train.0.images"])


def test_every_origin_line_holds_its_key() -> None:
    loaded = load_config("voc_r101.yaml")
    for key, origin in loaded.origins.items():
        if origin != "default":
            name, _, line = origin.rpartition(":")
            text = Path(name).read_text().splitlines()[int(line) - 1]
            assert f"{key.rsplit('.', 1)[-1]}:" in text, (key, origin)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load_and_resolve_to_themselves(name: str, tmp_path: Path) -> None:
    loaded = load_config(name)
    resolved = tmp_path / Path(name).name
    resolved.write_text(format_resolved(loaded))
    again = load_config(resolved)
    assert again.config == loaded.config
    assert "default" not in {origin for key, origin in again.origins.items() if not key.startswith("model.neck")}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_say_what_to_expect(name: str) -> None:
    head = re.match(r"(#.*\n)+", (shipped_configs() / name).read_text())
    assert head, f"{name} has no head comment"
    for part in ("command ", "hardware ", "expected "):
        assert f"#   {part}" in head[0], f"{name}: no {part}"
    assert name in head[0], f"{name}: the command does not name the file"
    assert re.search("Published|known to us|published|[Nn]ot yet run by us|[Mm]easured by us", head[0])


def test_the_promised_configurations_ship() -> None:
    nets, forms, schedules = ("r18", "r50", "r101", "x101"), ("", "_c4", "_dc5"), ("", "_3x")
    coco = [f"coco_{net}{form}{schedule}" for net in nets for form in forms for schedule in schedules]
    papers = ("r50", "r101", "vgg16")
    paper = [f"paper/{data}_{net}_c4" for net in papers for data in ("coco", "voc", "voc12")]
    others = ["voc_r50", "voc_r101", "voc07_r50", "voc12_r50", "voc_r50_from_coco", "bccd", "coco_overfit", "demo"]
    others += ["demo_pretrain", "coco_r50_strong", "coco_r50_adamw", "custom"]
    assert {f"{name}.yaml" for name in coco + paper + others} <= set(SHIPPED)


@pytest.mark.parametrize("net", ["r50", "r101", "vgg16"])
def test_the_papers_detection_baselines(net: str) -> None:
    coco, voc, voc12 = (load_config(f"paper/{data}_{net}_c4").config for data in ("coco", "voc", "voc12"))
    for config in (coco, voc, voc12):
        heads = config.model.roi_heads
        assert heads.pool.type == "roi_pool" and heads.pool.output_size == (7 if net == "vgg16" else 14)
        assert config.model.rpn.post_nms_top_n_test == 300 and config.train.optimizer.lr == 0.001
        resize, *_ = config.data.train_transforms
        assert (resize.short, resize.max) == ([600], 1000) and config.data.eval_transforms == [resize]
        assert net == "vgg16" or (config.model.backbone.stride_in_1x1, config.model.backbone.norm) == (
            True,
            "frozen_batch",
        )
    assert coco.model.anchors.sizes == [[64, 128, 256, 512]] and voc.model.anchors.sizes == [[128, 256, 512]]
    assert (coco.train.steps, coco.train.schedule.milestones, coco.train.batch_size) == (320000, [240000], 16)
    assert (voc.eval.metric, voc.best_metric, voc12.best_metric) == ("voc", "AP50_11point", "AP50")
    assert [(part.root[-4:], part.split) for part in voc.data.train] == [("2007", "trainval"), ("2012", "trainval")]
    sets = [("2007", "trainval"), ("2007", "test"), ("2012", "trainval")]
    assert [(part.root[-4:], part.split) for part in voc12.data.train] == sets


def test_published_schedules() -> None:
    once, thrice = load_config("coco_r50").config.train, load_config("coco_r50_3x").config.train
    assert (once.steps, once.schedule.milestones) == (90000, [60000, 80000])
    assert (thrice.steps, thrice.schedule.milestones) == (270000, [210000, 250000])
    assert (thrice.batch_size, thrice.optimizer.lr, thrice.warmup.steps) == (16, 0.02, 1000)


def test_show_names_the_origin_beside_each_value() -> None:
    shown = format_resolved(load_config("coco_r50", ["train.optimizer.lr=1e-5", "output=a b", "train.ema={}"]))
    assert re.search(r"^    lr: 1\.0e-05 +# override$", shown, re.MULTILINE)
    assert re.search(r'^output: "a b" +# override$', shown, re.MULTILINE)
    assert re.search(r"^    depth: 50 +# .*configs/base/faster_rcnn_fpn\.yaml:\d+$", shown, re.MULTILINE)
    assert re.search(r"^    - type: resize_shortest +# ", shown, re.MULTILINE)
    commented = [line for line in shown.splitlines()[1:] if "  # " in line]
    columns = {line.index("# ") for line in commented if len(line.split("  # ")[0].rstrip()) <= 60}
    assert len(columns) == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        " a",
        "a: b",
        "a #b",
        "null",
        "8",
        "1e-4",
        "-",
        "é",
        "tab\t",
        '"',
        "'",
        "x\ny",
        "~",
        "[a",
        "true",
        "a:",
        "C:\\x",
    ]
    + ["😀", "runs/{name}", "cuda:1", "torchvision:A.B", 1e-5, 1e22, 3, -0.5, float("inf"), None, True, False],
)
def test_scalars_survive_writing_and_reading(value: object) -> None:
    assert parse(f"key: {format_scalar(value)}", lambda line: "").at(("key",)).value == value


def test_the_stored_form_is_plain() -> None:
    def kinds(value: object) -> set[type]:
        if isinstance(value, dict):
            return {dict}.union(*(kinds(child) for child in value.values()))
        if isinstance(value, list):
            return {list}.union(*(kinds(child) for child in value))
        return {type(value)}

    assert kinds(config_to_dict(load_config("bccd").config)) <= {dict, list, str, int, float, bool, type(None)}

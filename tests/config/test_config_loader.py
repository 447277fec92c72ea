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
    coco = [f"coco_{net}{schedule}" for net in ("r18", "r50", "r101", "x101") for schedule in ("", "_3x")]
    others = ["coco_r50_c4", "coco_r50_dc5", "voc_r50", "voc_r101", "bccd", "coco_overfit", "demo", "demo_pretrain"]
    assert {f"{name}.yaml" for name in coco + others} <= set(SHIPPED)


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

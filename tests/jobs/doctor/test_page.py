"""The doctor's page: escaped, on its own, with pictures of the cases."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from detres.jobs.doctor.checks import CHECKS
from detres.jobs.doctor.findings import Example, Findings, Shot
from detres.jobs.doctor.page import build_page
from detres.jobs.doctor.pictures import LENS, SIDE, draw_shot
from tests.jobs.doctor.conftest import Clinic

EVIL = "<script>alert('x')</script>\x07\"&"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]


def test_without_findings() -> None:
    page = build_page("empty", [], Findings(has_boxes=True, has_anchors=True), lambda _: None)
    assert "<section" not in page and page.count(">ok<") == len(CHECKS)


def test_texts_of_the_data_are_escaped(coco: Clinic) -> None:
    coco.edit(lambda content: content["categories"][0].update(name=EVIL))
    coco.edit(lambda content: content["images"][0].update(file_name=EVIL))
    coco.edit(lambda content: content["annotations"][2].update(bbox=[4, 6, 0, 0]))
    diagnosis = coco.examine()
    page = diagnosis.written[0].read_text()
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.tags and "\x07" not in page and "&lt;script&gt;alert" in page
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in tags.sources)
    content = json.loads(diagnosis.written[1].read_text())
    assert content["checks"]["boxes_without_size"]["count"] == 1


def test_pictures_show_the_cases(coco: Clinic) -> None:
    coco.edit(lambda content: content["annotations"][0].update(bbox=[100, 6, 16, 16]))
    page = coco.examine().written[0].read_text()
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.width > SIDE  # room for what lies outside
        red = np.asarray(picture.convert("RGB")).astype(int)[:, SIDE:]
    assert ((red[..., 0] > 180) & (red[..., 1] < 120)).any()


def test_small_boxes_are_enlarged(tmp_path: Path) -> None:
    """Ten by ten pixels in the middle of 200 x 100: three times as much is shown beside the picture."""
    path = tmp_path / "a.png"
    with Image.new("RGB", (200, 100)) as image:
        image.paste((255, 255, 255), (95, 45, 105, 55))
        image.save(path)
    plain = draw_shot(Shot(str(path), None))
    assert plain is not None and plain.size == (SIDE, SIDE // 2)
    picture = draw_shot(Shot(str(path), (100, 200), [[95, 45, 105, 55]], ["a"]))
    assert picture is not None and picture.size == (SIDE + 6 + LENS, LENS)
    lens = np.asarray(picture)[:, SIDE + 6 :]
    white = (lens.min(axis=2) > 200).mean()
    assert lens[150, 150].tolist() == [255, 255, 255] and abs(white - 1 / 9) < 0.05
    large = draw_shot(Shot(str(path), (100, 200), [[20, 20, 80, 80]], ["a"]))
    assert large is not None and large.size == (SIDE, SIDE // 2)


def test_boxes_that_cannot_be_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    boxes = [[float("nan")] * 4, [1e300, 0, 1e308, 9], [9, 9, 2, 2], [5, 5, 5, 5], [-1e9, -1e9, 1e9, 1e9]]
    picture = draw_shot(Shot(path, (99, 99), boxes, ["x"] * 5, boxes))
    assert picture is not None and max(picture.size) < 2 * SIDE + LENS
    assert draw_shot(Shot(str(tmp_path / "absent.png"), None)) is None
    findings = Findings(has_boxes=False, has_anchors=False)
    findings.add_all("leaks", 30, [Example("two", (Shot(path, None), Shot("", None)))] * 30)
    page = build_page("x", ["y"], findings, lambda _: None)
    assert page.count("<img") == 6 and page.count("<li>") == 14 and "10 more are not shown" in page

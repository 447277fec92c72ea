"""Reading a VOC folder, or a folder of such XML files, to the end, whatever is wrong in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detres import wiring
from detres.config.data import OwnDataset, VocDataset
from detres.data.annotations import DatasetError
from detres.data.own import find_images, find_xml_files
from detres.data.voc import image_paths
from detres.data.voc_xml import parse_xml, read_value
from detres.jobs.doctor.findings import Findings
from detres.jobs.doctor.records import RawImage, Split, pack_boxes

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(settings: VocDataset, name: str, findings: Findings) -> Split:
    """The split as its files have it; what is wrong with files, entries and ids goes to `findings`."""
    root = wiring.data_root() / settings.root
    split = Split(name, settings, str(root))
    stems = _read_stems(root, settings.split, split, findings)[: settings.max_images]
    try:
        paths = image_paths(root, stems)
    except (DatasetError, OSError) as error:
        findings.add("annotation_files", str(error))
        paths = [str(root / "JPEGImages" / f"{stem}.jpg") for stem in stems]
    trees = _read_trees(stems, [root / "Annotations" / f"{stem}.xml" for stem in stems], paths, split, findings)
    _read_objects(trees, settings.class_names, settings.use_difficult, split, findings)
    return split


def read_xml_folder(settings: OwnDataset, name: str, findings: Findings) -> Split:
    """The same for XML files of the user's own, in or below any folder. Raises ValueError where no folder is there."""
    folder, images = wiring.own_paths(settings)
    split = Split(name, settings, str(folder))
    try:
        all_stems, xml_files = find_xml_files(folder)
    except DatasetError as error:
        findings.add("annotation_files", str(error))
        return split
    files = dict(zip(reversed(all_stems), reversed(xml_files), strict=True))  # the first of every stem
    stems = [stem for stem, path in zip(all_stems, xml_files, strict=True) if files[stem] == path]
    for stem, path in zip(all_stems, xml_files, strict=True):
        if files[stem] != path:
            findings.add("image_ids", f"{name}: {path} and {files[stem]} are of one name")
    try:
        paths = find_images(images, stems)
    except DatasetError as error:
        findings.add("annotation_files", str(error))
        paths = [str(images / f"{stem}.jpg") for stem in stems]
    trees = _read_trees(stems, [files[stem] for stem in stems], paths, split, findings)
    _read_objects(trees, None, False, split, findings)
    return split


def _read_trees(
    stems: Sequence[str], xml_files: Sequence[Path], paths: Sequence[str], split: Split, findings: Findings
) -> list[ElementTree.Element | None]:
    """The content of every XML file; `split` gets the images."""
    trees = [_parse(path, findings) for path in xml_files]
    for stem, xml_file, path, tree in zip(stems, xml_files, paths, trees, strict=True):
        size = None if tree is None else _read_size(tree, f"{split.name}: {stem}.xml", findings)
        split.images.append(RawImage(stem, path, size, annotation=str(xml_file)))
    return trees


def _read_stems(root: Path, list_name: str, split: Split, findings: Findings) -> list[str]:
    """The names in the split's list, each once."""
    path = root / "ImageSets" / "Main" / f"{list_name}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        findings.add("annotation_files", f"{path}: the split cannot be read ({error})")
        return []
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        findings.add("annotation_files", f"{path}: the split lists no images")
    seen: set[str] = set()
    for stem in stems:
        if stem in seen:
            findings.add("image_ids", f"{split.name}: {path} lists {stem!r} more than once")
        seen.add(stem)
    return list(dict.fromkeys(stems))


def _parse(path: Path, findings: Findings) -> ElementTree.Element | None:
    try:
        return parse_xml(path)
    except DatasetError as error:
        findings.add("annotation_files", str(error))
        return None


def _read_size(tree: ElementTree.Element, where: str, findings: Findings) -> tuple[int, int] | None:
    height, width = (read_value(tree, f"size/{side}") for side in ("height", "width"))
    if 1 <= height < 2**31 and 1 <= width < 2**31:  # NaN fails both
        return int(height), int(width)
    found = f"{tree.findtext('size/width')!r} and {tree.findtext('size/height')!r}"
    findings.add("image_entries", f"{where}: needs a positive width and height, got {found}")
    return None


def _read_objects(
    trees: Sequence[ElementTree.Element | None],
    class_names: Sequence[str] | None,
    use_difficult: bool,
    split: Split,
    findings: Findings,
) -> None:
    """The boxes and class names; classes that are not among `class_names` are reported."""
    rows: list[tuple[int, int, str, list[float], bool]] = []
    for image, tree in enumerate(trees):
        for number, entry in enumerate(tree.findall("object") if tree is not None else ()):
            name = (entry.findtext("name") or "").strip()
            if not name:
                text = f"{split.name}: object {number} in {split.images[image].id}.xml has no <name>"
                findings.add("annotation_files", text)
                continue
            corners = [read_value(entry, f"bndbox/{corner}") for corner in CORNERS]
            rows.append((image, number, name, corners, read_value(entry, "difficult") == 1))
    names = class_names or sorted({row[2] for row in rows})
    if not names:
        findings.add("annotation_files", f"{split.name}: {split.source}: no object is annotated: no classes")
    split.class_names = tuple(dict.fromkeys(names))
    label_of = {name: label for label, name in enumerate(split.class_names)}
    for row in rows:
        if row[2] not in label_of:
            text = f"{split.name}: {row[2]!r} in {split.images[row[0]].id}.xml is not in class_names"
            findings.add("unknown_categories", text, severity="warning")
    kept: list[Any] = [row for row in rows if row[2] in label_of]
    split.boxes = pack_boxes(
        [row[3] for row in kept],
        [row[0] for row in kept],
        [label_of[row[2]] for row in kept],
        [row[4] and not use_difficult for row in kept],
        [row[1] for row in kept],
        inclusive=True,
    )

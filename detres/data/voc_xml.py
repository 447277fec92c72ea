"""One annotation file of PASCAL VOC's form, read without trusting it."""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from detres.data.annotations import DatasetError


class VocObject(NamedTuple):
    """An object: its class, its corners as the file has them (NaN where they are no numbers), its flag."""

    name: str
    box_1based: tuple[float, float, float, float]
    difficult: bool


class VocAnnotation(NamedTuple):
    """An image's size and objects."""

    size_hw: tuple[int, int]
    objects: list[VocObject]


def read_voc_xml(path: Path) -> VocAnnotation:
    """Read `path`. Raises DatasetError when it is missing, no XML, declares entities, or lacks the image's size."""
    root = parse_xml(path)
    height, width = (read_value(root, f"size/{side}") for side in ("height", "width"))
    if not (1 <= height < 2**31 and 1 <= width < 2**31):  # NaN fails both
        raise DatasetError(
            f"{path}: the annotation has no usable <size>: expected positive <width> and <height>, got "
            f"{root.findtext('size/width')!r} and {root.findtext('size/height')!r}; write the image's size there"
        )
    return VocAnnotation((int(height), int(width)), [_read_object(entry, path) for entry in root.findall("object")])


def parse_xml(path: Path) -> ElementTree.Element:
    """The tree of an XML file. Document types are refused: entities can expand without bound or read other files.

    Raises DatasetError for a file that is missing, cannot be read, is not XML, or declares a document type.
    """

    def refuse(*_: object) -> None:
        raise DatasetError(f"{path}: the XML declares a document type, which is refused; remove <!DOCTYPE ...>")

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag, attributes)
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except FileNotFoundError:
        raise DatasetError(f"{path}: the annotation file does not exist; add it, or edit the split") from None
    except OSError as error:
        raise DatasetError(f"{path}: the annotation file cannot be read ({error})") from error
    except DatasetError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: encodings that expat does not know
        raise DatasetError(f"{path}: not well-formed XML ({error}); fetch or export the file again") from error
    root: ElementTree.Element = builder.close()
    return root


def _read_object(entry: ElementTree.Element, path: Path) -> VocObject:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{path}: an <object> has no <name>; name its class or remove it")
    x1, y1, x2, y2 = (read_value(entry, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(name, (x1, y1, x2, y2), read_value(entry, "difficult") == 1)


def read_value(entry: ElementTree.Element, where: str) -> float:
    """The number at `where`; NaN when it is missing or no number."""
    try:
        return float(entry.findtext(where) or "nan")
    except ValueError:
        return math.nan

"""Ways to damage a file: its bytes, the values of its JSON or YAML, its XML, the members of its zip or tar.

Every mutator is a function of a random generator and the bytes of a file; the same generator gives the same damage.
"""

import copy
import io
import json
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree

import yaml

Mutator = Callable[[Random, bytes], bytes]

ESCAPED = "/tmp/detres-fuzz-escaped"  # no archive may ever make this file

TOKENS = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\xed\xa0\x80", b"-1", b"1e999", b"NaN", b"9" * 5000,
    b"0x" + b"f" * 5000, b"18446744073709551616", b"[" * 3000, b"{" * 3000, b"<a>" * 3000, b"- " * 2000, b"..\\",
    b"../", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"<?xml version='1.0' encoding='utf-7'?>",
    b"!!python/object/apply:os.system [touch ran]", b"&a [*a, *a]", b"*a", b"<<: ", b"? ", b"|\n", b"%YAML 9.9\n---\n",
    b"\n...\n---\n", b"cos\nsystem\n(S'touch ran'\ntR.", b"\x80\x04", b"\x80\x02", b"0.", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 16, b"PK\x01\x02", b"PK\x05\x06", b"\t", b"\r", b"\x85", b"\xe2\x80\xa8",
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 255, 65536, 10**6, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308,
    -1e308, float("nan"), float("inf"), "", "0", "a", "\0", "\ud800", "\x1b[31mred\x1b[0m", "<script>alert(1)</script>",
    "$x_$", "../../escaped", "/etc/passwd", ESCAPED, "null", "²", "é" * 300, "x" * 100_000, "os:system", [], {},
    [[]], [None], {"": 0}, {"type": "os:system"}, {"id": 1},
]  # fmt: skip


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """One to four changes anywhere."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(data))
        length = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
        match rng.randrange(8):
            case 0 if length:
                data[place] ^= 1 << rng.randrange(8)
            case 1 if length:
                data[place] = rng.randrange(256)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
            case 4:
                del data[rng.randint(0, len(data)) :]
            case 5:
                data[place:place] = rng.choice(TOKENS)
            case 6:
                data[place : place + length] = rng.choice(TOKENS)
            case _:
                data[place : place + length] = rng.randbytes(length)
    return bytes(data)


def mutate_value(rng: Random, root: Any) -> Any:
    """A copy of nested lists and dicts with one to three values changed, removed, moved, repeated or nested deeply."""
    box = [copy.deepcopy(root)]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(box))
        holder, key = rng.choice(places)
        other_holder, other_key = rng.choice(places)
        match rng.randrange(8):
            case 0 if len(places) > 1 and holder is not box:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(other_holder[other_key])
            case 2 if isinstance(holder, list) and holder is not box:
                holder.insert(key, copy.deepcopy(other_holder[other_key]))
            case 3 if isinstance(holder, dict):
                holder[str(rng.choice(VALUES))] = holder.pop(key)
            case 4 if rng.random() < 0.3:
                for _ in range(rng.choice((50, 900, 3000))):
                    holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
            case _:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    return box[0]


def _places(root: Any) -> Any:
    """(container, key) of every value, without recursion: it may be nested deeply already."""
    pending = [root]
    while pending:
        holder = pending.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])


def by_structure(load: Callable[[bytes], Any], dump: Callable[[Any], bytes], mutate: Any = mutate_value) -> Mutator:
    """Damage what `load` makes of a file, and now and then its bytes too; what cannot be written again: its bytes."""

    def mutator(rng: Random, content: bytes) -> bytes:
        if rng.random() < 0.3:
            return mutate_bytes(rng, content)
        try:
            content = dump(mutate(rng, load(content)))
        except (ValueError, RecursionError, OverflowError, TypeError, KeyError, struct.error, OSError):
            return mutate_bytes(rng, content)
        return mutate_bytes(rng, content) if rng.random() < 0.1 else content

    return mutator


def _dump_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def _load_safetensors(content: bytes) -> tuple[Any, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _dump_safetensors(parts: tuple[Any, bytes]) -> bytes:
    header = json.dumps(parts[0]).encode()
    return struct.pack("<Q", len(header)) + header + parts[1]


def _mutate_xml(rng: Random, root: ElementTree.Element) -> ElementTree.Element:
    for _ in range(rng.randint(1, 3)):
        elements = list(root.iter())
        element, other = rng.choice(elements), rng.choice(elements)
        match rng.randrange(6):
            case 0:
                element.tag = other.tag
            case 1 if element is not root:
                next(parent for parent in elements if element in list(parent)).remove(element)
            case 2:
                element.append(copy.deepcopy(other))
            case 3 if rng.random() < 0.2:
                for _ in range(2000):
                    element = ElementTree.SubElement(element, "deep")
            case _:
                element.text = str(rng.choice(VALUES))
    return root


def _mutate_members(rng: Random, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Members of an archive, of which one is damaged, renamed, repeated or left out, or a hostile one is added."""
    members = list(members)
    place = rng.randrange(len(members))
    name, content = members[place]
    match rng.randrange(6):
        case 0:
            members[place] = (rng.choice(NAMES), content)
        case 1:
            members.append((name, rng.choice(members)[1]))
        case 2:
            del members[place]
        case 3:
            members.append((rng.choice(NAMES), b"hostile"))
        case _:
            members[place] = (name, mutate_bytes(rng, content))
    return members


NAMES = ["../escaped", ESCAPED, "a/../../escaped", "..\\escaped", "", ".", "..", "a", "a/", "a/b", "C:\\a", "x" * 300,
         "a\0b", "con", "-rf", "\x1b[31m", "é\ud800", "a/" * 3000 + "b", "data.pkl", "constants.pkl"]  # fmt: skip


def _load_zip(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def _dump_zip(rng: Random, members: Sequence[tuple[str, bytes]], compress: bool) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are wanted
        for name, content in members:
            entry = zipfile.ZipInfo(name)
            if rng.random() < 0.05:
                entry.external_attr = rng.choice((0o120777, 0o060666, 0o010666, 0o104755)) << 16  # link, device, pipe
            methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            entry.compress_type = rng.choice(methods) if compress and rng.random() < 0.5 else zipfile.ZIP_STORED
            archive.writestr(entry, content)
    return file.getvalue()


def zip_mutator(compress: bool) -> Mutator:
    """Damage the members of a zip file; `compress`: they may be written compressed."""

    def mutator(rng: Random, content: bytes) -> bytes:
        return by_structure(_load_zip, lambda members: _dump_zip(rng, members, compress), _mutate_members)(rng, content)

    return mutator


def mutate_tar(rng: Random, content: bytes) -> bytes:
    """Damage the members of a tar file, some of which become links and devices; it may come out compressed."""

    def load(data: bytes) -> list[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return [(entry.name, archive.extractfile(entry).read()) for entry in archive]  # type: ignore[union-attr]

    def dump(members: list[tuple[str, bytes]]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=rng.choice(("w", "w:gz", "w:bz2", "w:xz"))) as archive:
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                if rng.random() < 0.1:
                    entry.type, entry.linkname, entry.size = bytes([rng.choice(b"123456")]), rng.choice(NAMES), 0
                archive.addfile(entry, io.BytesIO(data))
        return file.getvalue()

    return by_structure(load, dump, _mutate_members)(rng, content)


mutate_json = by_structure(json.loads, lambda value: json.dumps(value).encode())
mutate_yaml = by_structure(yaml.safe_load, _dump_yaml)
mutate_xml = by_structure(ElementTree.fromstring, ElementTree.tostring, _mutate_xml)
mutate_safetensors = by_structure(
    _load_safetensors, _dump_safetensors, lambda rng, parts: (mutate_value(rng, parts[0]), parts[1])
)

"""Files that try to run something: nothing of it runs, and the error names what they asked for."""

import copyreg
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from detres.files import restricted_pickle, torch_file
from detres.files.pickle_scan import Scan
from detres.files.restricted import UnsafeFileError, read_pickle, read_torch

ARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"


class Payload:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """A file that a payload would make; it must not exist afterwards."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists(), "the payload ran"


@pytest.fixture
def command(flag: Path) -> str:
    """What a payload passes to os.system."""
    return f"touch {flag}"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def read(content: bytes, flag: Path) -> object:
    path = flag.with_name("weights.pkl")
    path.write_bytes(content)
    return read_pickle(path)


def refused(content: bytes, flag: Path, *names: str) -> None:
    with pytest.raises(UnsafeFileError, match=r"weights\.pkl: asks for foreign code .* nothing of it was run") as error:
        read(content, flag)
    assert error.value.names == names
    assert all(name in str(error.value) for name in names)


def test_the_payload_runs_where_nothing_holds_it_back(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(f"touch {tmp_path / 'ran'}")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_deep_in_a_model(protocol: int, command: str, flag: Path) -> None:
    model = {"model": {"weight": np.ones(3), "meta": [({"epoch": Payload(command)},)]}, "__author__": "somebody"}
    refused(pickle.dumps(model, protocol), flag, f"{os.name}.system")


def test_several_names_are_all_told(command: str, flag: Path) -> None:
    refused(b"(cos\nsystem\ncbuiltins\neval\ncshutil\nrmtree\nl.", flag, "builtins.eval", "os.system", "shutil.rmtree")


@pytest.mark.parametrize(
    ("assembled", "name"),
    [
        (b"cos\nsystem\n(S'%s'\ntR.", "os.system"),
        (b'c__builtin__\neval\n(S\'__import__("os").system("%s")\'\ntR.', "__builtin__.eval"),
        (b"(S'%s'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'%s'\no.", "os.system"),
        (b"\x80\x04csubprocess\nPopen\n(S'%s'\nt}S'shell'\n\x88s\x92.", "subprocess.Popen"),
        (b"\x80\x02csubprocess\nPopen\n(S'%s'\nt\x81.", "subprocess.Popen"),
        (b"ccollections\nOrderedDict\n)R}S'__setstate__'\ncos\nsystem\nsbS'%s'\nb.", "os.system"),
        (b"cnumpy\ndtype\n}S'__setstate__'\ncos\nsystem\nsb.%s", "os.system"),
        (b"cbuiltins\ngetattr\n(cos\npath\nS'%s'\ntR.", ("builtins.getattr", "os.path")),
    ],
)
def test_assembled_by_hand(assembled: bytes, name: str | tuple[str, ...], command: str, flag: Path) -> None:
    refused(assembled % command.encode(), flag, *([name] if isinstance(name, str) else name))


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "path.join"),
        ("numpy", "ndarray.__class__"),
        ("numpy", "dtype.__setstate__.__globals__"),
        ("collections", "OrderedDict.__init__"),
        ("detres.files.inert", "Builder"),
    ],
)
def test_attributes_of_attributes(module: str, attribute: str, flag: Path) -> None:
    refused(b"\x80\x04" + short(module) + short(attribute) + b"\x93.", flag, f"{module}.{attribute}")


def test_names_that_come_from_the_memo(command: str, flag: Path) -> None:
    names = short("os") + b"\x94" + short("system") + b"\x94" + b"00h\x00h\x01\x93"
    refused(b"\x80\x04" + names + short(command) + b"\x85R.", flag, "os.system")


def test_extension_registry(command: str, flag: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        refused(b"\x80\x02\x82\xf0" + short(command) + b"\x85R.", flag, "copyreg extension 240")
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_array_of_objects(command: str, flag: Path) -> None:
    refused(pickle.dumps(np.array([Payload(command)], dtype=object)), flag, f"{os.name}.system")
    with pytest.raises(ValueError, match="array of type 'O8', expected numbers or text"):
        read(pickle.dumps(np.array([None, 1], dtype=object)), flag)


def test_the_unpickler_refuses_what_the_scan_would_miss(
    command: str, flag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restricted_pickle, "scan_pickle", lambda file, size: Scan())
    with pytest.raises(ValueError, match=rf"asks for {os.name}\.system"):
        read(pickle.dumps(Payload(command)), flag)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Pos.system\n.", "stored outside of it"),
        (b"S'os.system'\nQ.", "stored outside of it"),
        (RECONSTRUCT + b"}S'_build'\nNsb.", r"changes numpy\._core\.multiarray\._reconstruct"),
        (RECONSTRUCT + b"(N}S'name'\nNstb.", "changes numpy"),
        (ARRAY + b"(N}S'fill'\nNstb.", "truncated or not a pickle"),
        (ARRAY + b"(K\x02tR.", "truncated or not a pickle"),
        (RECONSTRUCT + b"(" + ARRAY + b"(J\xff\xff\xff\x7ftS'b'\ntR.", "subclass"),
        (RECONSTRUCT + b"(" + ARRAY + b"(K\x00tS'b'\ntR.", "without its data"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "encoding 'rot13'"),
        (b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.", "from a int"),
        (b"cbuiltins\nlist\n(S'x'\ntR.", r"calls builtins\.list"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "type 'V8'"),
    ],
)
def test_misuse_of_what_is_allowed(content: bytes, reason: str, flag: Path) -> None:
    with pytest.raises(ValueError, match=rf"weights\.pkl: .*{reason}"):
        read(content, flag)


def nested(levels: int) -> bytes:
    return b")" + b"\x85" * levels


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"}" + nested(1_000_000) + b"Ns.", "tuples nested too deeply"),  # hashing it ends the process
        (b"})" + b"2\x86" * 90 + b"Ns.", "tuples nested too deeply"),  # hashing it takes for ever
        (b"]" * 3000 + b"a" * 2999 + b".", "nested too deeply to be weights"),
        (b"Nr\xff\xff\xff\x7f.", "truncated or not a pickle"),  # would fill the memory with an empty memo
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.", "a frame longer than the file"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"N.", "truncated or not a pickle"),
    ],
)
def test_what_would_bring_an_unpickler_down(content: bytes, reason: str, flag: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        read(content, flag)


def test_arrays_are_no_larger_than_the_file(flag: Path) -> None:
    array = pickle.dumps(np.zeros(4, np.uint8), 4)
    with pytest.raises(ValueError, match=r"shape \(254,\) and type uint8: needs 254 bytes, found 4"):
        read(array.replace(b"K\x04\x85", b"K\xfe\x85"), flag)
    data = np.zeros(100_000, np.uint8)
    frombuffer = b"cnumpy._core.numeric\n_frombuffer\n(g0\ncnumpy\ndtype\n(S'u1'\ntR(I100000\ntS'C'\ntR"
    stored = b"\x80\x05B" + struct.pack("<I", data.nbytes) + data.tobytes() + b"p0\n0]("
    assert len(read(stored + frombuffer + b"e.", flag)) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="more data than a file of this size can hold"):
        read(stored + 1000 * frombuffer + b"e.", flag)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(zipped: bool, command: str, flag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = flag.with_name("weights.pth")
    content = {"model": OrderedDict(weight=torch.ones(2)), "meta": [Payload(command)]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([os.system])  # what other libraries allow does not count here
    try:
        with pytest.raises(UnsafeFileError, match=rf"weights\.pth: .*{os.name}\.system"):
            read_torch(path)
        monkeypatch.setattr(torch_file, "refuse_unknown", lambda path, names, known: None)
        with pytest.raises(UnsafeFileError, match=rf"{os.name}\.system"):
            read_torch(path)  # torch's own reader refuses it as well
        assert os.system in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.", r"torch\.storage\._load_from_bytes"),
        (b"ctorch\nload\n(S'x'\ntR.", r"torch\.load"),
        (b"cargparse\nNamespace\n)\x81K\x00K\x01s.", "items set on argparse.Namespace"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)RK\x00K\x01s.", "items set on torch._utils._rebuild_tensor_v2"),
        (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuI4096\ntQ.",
            "needs 16384",
        ),
        (b"X\x01\x00\x00\x000Q.", "a tensor stored as '0'"),
        (b"}" + nested(1_000_000) + b"Ns.", "tuples nested too deeply"),
    ],
)
def test_torch_archives_assembled_by_hand(content: bytes, reason: str, flag: Path) -> None:
    path = flag.with_name("weights.pth")
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in {"data.pkl": b"\x80\x02" + content, "version": b"3\n", "data/0": bytes(64)}.items():
            archive.writestr(f"archive/{name}", part)
    with pytest.raises(ValueError, match=rf"weights\.pth: .*{reason}"):
        read_torch(path)

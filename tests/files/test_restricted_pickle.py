"""Honest pickles of every age come out as they went in; what is written reads everywhere."""

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detres.files.restricted import UnsafeFileError, read_pickle, write_pickle

# What Python 2's cPickle.dumps({"blobs": {"conv1_w": ...}, "cfg": u"..."}, 2) gives: keys and data are byte strings.
PYTHON_2 = (
    b"\x80\x02}q\x00(U\x05blobsq\x01}q\x02U\x07conv1_wq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\n"
    b"q\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\t(K\x01K\x02K\x03\x86q\ncnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87"
    b"q\rRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89U\x18%sq\x11tq\x12bs"
    b"U\x03cfgq\x13X\x04\x00\x00\x00TESTq\x14U\x03numq\x15cnumpy.core.multiarray\nscalar\nq\x16h\x0eU\x04%sq\x17\x86R"
    b"U\x03setq\x18c__builtin__\nset\nq\x19]q\x1aK\x01a\x85R"
    b"U\x07orderedq\x1bccollections\nOrderedDict\nq\x1c]q\x1d]q\x1e(U\x01aK\x01ea\x85Ru."
)
WEIGHT = np.array([[-1.5, 2.0, 1e30], [0.1, -0.0, 7.0]], dtype=np.float32)


def through(content: object, folder: Path, protocol: int = 4) -> object:
    path = folder / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return read_pickle(path)


def test_written_by_python_2(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    path.write_bytes(PYTHON_2 % (WEIGHT.tobytes(), WEIGHT[0, :1].tobytes()))
    content = read_pickle(path)
    np.testing.assert_array_equal(content["blobs"]["conv1_w"], WEIGHT)
    assert content["cfg"] == "TEST" and content["num"] == np.float32(-1.5)
    assert content["set"] == {1} and content["ordered"] == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(-3, 3).reshape(2, 3).astype(dtype) for dtype in ("f2", "f4", "f8", "i1", "i8", "u1", "c8", "?")),
        np.asfortranarray(WEIGHT),
        WEIGHT.T[::2],
        np.ones((1, 2, 3)).transpose(1, 0, 2),
        np.array(3.0),
        np.zeros((0, 4)),
        WEIGHT.astype(">f4"),
        np.array(["cat", "dog"]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    read = through({"model": {"w": array}}, tmp_path, protocol)["model"]["w"]  # type: ignore[index]
    assert type(read) is np.ndarray and read.dtype == array.dtype.newbyteorder("=") and read.dtype.isnative
    assert read.flags.writeable and read.flags.owndata
    np.testing.assert_array_equal(read, array, strict=array.dtype.isnative)


@pytest.mark.parametrize("spelling", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_spellings_of_numpy(spelling: bytes, tmp_path: Path) -> None:
    written = pickle.dumps([WEIGHT, np.float64(2.5)], 2)
    for known in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        written = written.replace(known, spelling)
    (tmp_path / "a.pkl").write_bytes(written)
    array, number = read_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(array, WEIGHT)
    assert type(number) is np.float64 and number == 2.5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_keys(protocol: int, tmp_path: Path) -> None:
    content = {
        b"bytes as key": [1, -(2**70), 1.5, None, True, "ü"],
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, a=[1]),
        "sets": ({1, 2}, frozenset([3])),
        "others": [2j, bytearray(b"\x00\xff"), b"\x00\xff", b"", collections.deque([1], maxlen=3), np.bool_(True)],
    }
    read = through(content, tmp_path, protocol)
    assert isinstance(read, dict) and list(read) == ["bytes as key", "ordered", "default", "sets", "others"]
    assert read["bytes as key"] == content[b"bytes as key"]
    assert type(read["ordered"]) is collections.OrderedDict and list(read["ordered"]) == ["b", "a"]
    assert type(read["default"]) is dict and read["default"] == {"a": [1]}
    assert read["sets"] == content["sets"]
    assert read["others"] == [2j, bytearray(b"\x00\xff"), b"\x00\xff", b"", [1], True]


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    loop: list[object] = [WEIGHT, WEIGHT]
    loop.append((loop,))
    read = through(loop, tmp_path)
    assert read[0] is read[1] and read[2][0] is read  # type: ignore[index]


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", pickle.dumps({"w": WEIGHT})[:-40], b"{'a': 1}", b"N0."])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.pkl: truncated or not a pickle \(.+\); copy or download it again"):
        read_pickle(tmp_path / "bad.pkl")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"is a zip file, not a pickle; if torch\.save wrote it, name it \.pth"):
        read_pickle(tmp_path / "bad.pkl")
    with pytest.raises(ValueError, match="holds the key 'a' twice"):
        through({"a": 1, b"a": 2}, tmp_path)
    with pytest.raises(UnsafeFileError, match=r"_load_from_bytes.*; tensors are read from what torch\.save writes"):
        through({"weight": torch.ones(2)}, tmp_path)
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "none.pkl")


def test_written_files_read_everywhere(tmp_path: Path) -> None:
    model = {f"{array.dtype}": array for array in (WEIGHT, np.asfortranarray(WEIGHT[:, :2].astype("f2")), np.arange(3))}
    model |= {"scalar": np.array(2.5), "none": np.zeros((0, 4)), "truth": np.array([True]), "big": WEIGHT.astype(">f8")}
    content = {"model": model, "__author__": "Zoë", "matching_heuristics": True, "empty": {}}
    path = tmp_path / "new" / "model.pkl"
    write_pickle(path, content)
    assert b"numpy.core.multiarray" in path.read_bytes()  # the name that numpy before 1.26 knows
    for read in (pickle.loads(path.read_bytes(), encoding="latin1"), read_pickle(path)):
        assert list(read["model"]) == list(model)
        for name, array in model.items():
            np.testing.assert_array_equal(read["model"][name], array, strict=array.dtype.isnative)
        assert {**read, "model": {}} == {**content, "model": {}} and read["matching_heuristics"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": [1]}}, r"\['model'\]\['w'\]: a list, expected an array"),
        ({"w": np.array([None])}, r"\['w'\]: an array of object"),
        ({"w": np.array(["a"])}, r"\['w'\]: an array of <U1"),
        ({"n": 3}, r"\['n'\]: a int"),
        ({"m": {1: "a"}}, r"\['m'\]\[1\]: the key is a int, expected str"),
    ],
)
def test_what_is_not_written(content: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        write_pickle(tmp_path / "model.pkl", content)
    assert list(tmp_path.iterdir()) == []

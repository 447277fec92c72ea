"""Whatever stands in a file: a value or a ValueError that names the file, and nothing runs."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detres.files.restricted import read_pickle, read_torch

MODEL = {"model": {"w": np.ones((2, 3), np.float32), b"b": np.zeros(2)}, "set": {1}, "n": [np.float32(1), (1, 2.0)]}
TENSORS = {"w": torch.ones(2, 3), "history": np.arange(3), "epoch": 1}


class Payload:
    """Runs when it is read by pickle itself: makes the folder that it is named after."""

    folder = "ran"

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


def torch_file(content: Any, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


PICKLES = [pickle.dumps(content, protocol) for protocol in range(6) for content in (MODEL, {**MODEL, "x": Payload()})]
TORCH_FILES = [torch_file(c, zipped) for zipped in (True, False) for c in (TENSORS, {**TENSORS, "x": Payload()})]


@st.composite
def mutated(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of the files with some bytes changed, a stretch moved or removed, or its end cut off."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        start, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 40))
        piece = content[start : start + length]
        del content[start : start + length]
        target = draw(st.none() | st.integers(0, len(content)))
        if target is not None:
            content[target:target] = piece
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


def survives(read: Callable[[Path], Any], content: bytes, folder: Path) -> None:
    path = folder / "weights.bin"
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error)
    assert os.listdir(folder) == ["weights.bin"], "the payload ran"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files are read from; it is the working folder, so that a payload would show in it."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True, scope="module")
def _in_folder(folder: Path) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(content=mutated(PICKLES) | st.binary(max_size=200))
def test_pickles(content: bytes, folder: Path) -> None:
    survives(read_pickle, content, folder)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(content=mutated(TORCH_FILES) | st.binary(max_size=200))
def test_torch_files(content: bytes, folder: Path) -> None:
    survives(read_torch, content, folder)


ALPHABET = [bytes([code]) for code in b"().01NQRKMbceiopqstu}]lda2\x80\x81\x85\x86\x87\x88\x89\x8c\x92\x93\x94"] + [
    b"cnumpy._core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n",
    b"cos\nmkdir\n",
    b"S'f4'\n",
    b"S'ran'\n",
    b"K\x00",
    b"K\x01",
    b"q\x00",
    b"h\x00",
]


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(instructions=st.lists(st.sampled_from(ALPHABET), max_size=30))
def test_instructions_in_any_order(instructions: list[bytes], folder: Path) -> None:
    survives(read_pickle, b"".join(instructions) + b".", folder)

"""Small files that would keep a careless reader busy for ever, or take all memory."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detres.files.restricted import read_pickle, read_torch
from detres.weights.report import WeightsError
from detres.weights.sources import read_state_dict

LEVELS = 60  # writing all parts of it out would take 2^60 of them


def shared() -> list[Any]:
    """Lists that hold the one below twice."""
    value: list[Any] = []
    for _ in range(LEVELS):
        value = [value, value]
    return value


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _array_with_shape(shape: Any) -> Any:
    return Call(np.ndarray, shape)


@pytest.mark.parametrize(
    "payload",
    [
        {"a": Call(np.dtype, shared())},
        {"a": _array_with_shape(shared())},
        {"a": Call(__import__("_codecs").encode, "text", shared())},
    ],
)
def test_messages_do_not_write_out_what_has_no_end(payload: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(payload, 2))
    with pytest.raises(ValueError, match=r"a\.pkl") as error:
        read_pickle(tmp_path / "a.pkl")
    assert len(str(error.value)) < 1000
    torch.save({"shared": [Call(np.dtype, shared())]}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_torch(tmp_path / "a.pth")


def test_numbers_that_hash_alike_are_refused_in_great_number(tmp_path: Path) -> None:
    alike = {k * (2**61 - 1): None for k in range(2**10, 2**10 + 2000)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(alike))
    with pytest.raises(ValueError, match="more than 1000 numbers of over 63 bits"):
        read_pickle(tmp_path / "a.pkl")
    few = {"seed": 2**100, "steps": list(range(5000))}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(few))
    assert read_pickle(tmp_path / "b.pkl") == few


def test_an_npz_that_claims_more_than_there_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.zeros(8, dtype=np.float32))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content.replace(b"(8,), }          ", b"(1000000000000,),"[:17]))
    with pytest.raises(WeightsError, match=r"a\.npz: not a whole npz file"):
        read_state_dict(tmp_path / "a.npz")


def test_tensors_without_values_are_no_weights(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(2, device="meta")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"conv1\.weight has a shape but no values"):
        read_state_dict(tmp_path / "a.pth")

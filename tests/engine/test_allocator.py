"""The allocator's two settings, by what they do to the memory of a process."""

import multiprocessing
import platform
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from detres.engine.allocator import allocator_from_environment, use_allocator

_BLOCK, _BLOCKS = 64 << 20, 4  # above glibc's own threshold, below ours
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def _use_and_free() -> int:
    """By how much the process grew after several large blocks were used and freed again."""
    before = _resident()
    blocks = [bytearray(_BLOCK) for _ in range(_BLOCKS)]
    for block in blocks:
        block[::4096] = b"x" * len(range(0, _BLOCK, 4096))
    del blocks, block
    return _resident() - before


def _in_a_process(start_method: str, function: Callable[[], Any]) -> Any:
    context = multiprocessing.get_context(start_method)
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(writing, function))
    child.start()
    writing.close()
    found = reading.recv()
    child.join()
    return found


def _send(writing: Connection, function: Callable[[], Any]) -> None:
    writing.send(function())


def _in_a_new_process(function: Callable[[], Any]) -> Any:
    """In one that has no free memory of other tests."""
    return _in_a_process("spawn", function)


def _both_ways() -> list[Any]:
    grown = []
    for name in ("default", "tuned", "default"):
        assert use_allocator(name)  # type: ignore[arg-type]
        grown.append(_use_and_free())
    return grown


def _tuned_for_long() -> list[int]:
    use_allocator("tuned")
    first = _use_and_free()
    start = _resident()
    for _ in range(20):
        _use_and_free()
    return [first, _resident() - start]


def _tuned_worker() -> int:
    use_allocator("tuned")
    grown: int = _in_a_process("fork", _use_and_free)
    return grown


@needs_glibc
def test_tuned_keeps_what_default_gives_back() -> None:
    default, tuned, again = _in_a_new_process(_both_ways)
    assert default < _BLOCK and tuned > (_BLOCKS - 1) * _BLOCK and again < _BLOCK


@needs_glibc
def test_tuned_keeps_no_more_than_was_needed_at_one_time() -> None:
    first, more = _in_a_new_process(_tuned_for_long)
    assert first <= (_BLOCKS + 1) * _BLOCK and more < _BLOCK


@needs_glibc
def test_forked_workers_inherit_it() -> None:
    assert _in_a_new_process(_tuned_worker) > (_BLOCKS - 1) * _BLOCK


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not use_allocator("tuned") and not use_allocator("default")


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRES_ALLOCATOR", raising=False)
    assert allocator_from_environment() == "tuned"
    monkeypatch.setenv("DETRES_ALLOCATOR", "default")
    assert allocator_from_environment() == "default"
    monkeypatch.setenv("DETRES_ALLOCATOR", "jemalloc")
    with pytest.raises(ValueError, match="DETRES_ALLOCATOR: got 'jemalloc', expected default or tuned"):
        allocator_from_environment()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="allocator: got 'best'"):
        use_allocator("best")  # type: ignore[arg-type]

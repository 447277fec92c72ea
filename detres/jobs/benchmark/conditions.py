"""Under what conditions both sides compute: device, number formats, compilation, memory allocator, opponent."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from detres.engine.allocator import AllocatorName, use_allocator
from detres.engine.precision import PrecisionName

OPPONENTS = ("torchvision", "detres")
ALLOCATORS = ("own", "default", "tuned")
PRECISIONS = ("float32", "bfloat16", "float16")
OURS = "detres"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What holds for every work of a benchmark.

    precision, compile  of our side
    their_precision     of the opponent, through autocast; the opponent is never compiled
    allocator           "own": the opponent has malloc's defaults, we our own settings; else both have the one named
    against             "torchvision", or "detres": plain detres, eager float32 without any of its optimisations
    repeats             turns of each side that count
    """

    device: torch.device
    precision: PrecisionName = "float32"
    their_precision: PrecisionName = "float32"
    compile: bool = False
    allocator: str = "own"
    against: str = "torchvision"
    repeats: int = 7
    progress: Callable[[str], None] = print

    def check(self) -> "Conditions":
        """The conditions themselves; ValueError naming a setting that does not exist."""
        for name, value, known in (
            ("against", self.against, OPPONENTS),
            ("allocator", self.allocator, ALLOCATORS),
            ("precision", self.precision, PRECISIONS),
            ("their precision", self.their_precision, PRECISIONS),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        return self

    @property
    def opponent(self) -> str:
        """The name of the other side."""
        return "plain detres" if self.against == "detres" else self.against

    def allocator_of(self, side: str) -> AllocatorName:
        """What a side's memory comes from."""
        if self.allocator == "own":
            return "tuned" if side == OURS else "default"
        return "default" if self.allocator == "default" else "tuned"

    def take_allocator(self, side: str) -> None:
        """Have malloc work as that side wants it, from now on."""
        use_allocator(self.allocator_of(side))

    def their_autocast(self) -> AbstractContextManager[object]:
        """The context in which the opponent's forward pass runs."""
        if self.their_precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.their_precision))


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """torch computes on `count` threads inside the block; None: on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and OpenCV compute on one thread inside the block."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with on_threads(1):
            yield
    finally:
        cv2.setNumThreads(before)

"""What a pickle asks for, found by walking its instructions without carrying any of them out.

The walk follows the unpickler's stack far enough to know every name asked for and every stored tensor referred to, and
turns away what would bring an unpickler down: references far beyond the file, tuples nested so deeply or shared so
often that hashing one never comes back.
"""

import pickletools
import reprlib
from dataclasses import dataclass, field
from typing import IO, Any

_TEXT = 200  # longer strings are no names; they are not kept
# Integers that differ by 2^61 - 1 hash alike, and a dict of very many such keys is never filled.
_LONG_BITS, _MOST_LONG = 63, 1000
_TUPLE_DEPTH, _TUPLE_SIZE = 100, 1_000_000
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")


def shown(value: object) -> str:
    """A value out of a file in a message: a few of its parts. Its repr may never end, where lists share their parts."""
    return reprlib.repr(value)[:60]


class DamagedPickle(ValueError):
    """What stands there is no pickle, or not a whole one."""


class Global(str):
    """A name, module.attribute, that the pickle looks up."""

    __slots__ = ()


class Made(str):
    """What calling the thing of that name gave; "dict" for a plain dict."""

    __slots__ = ()


@dataclass(frozen=True)
class Item:
    """What is known of a thing on the stack: a short string, a number, a Global, a Made, a tuple of such, or nothing.

    depth and size count nested tuples as hashing one would: shared parts count each time.
    """

    value: Any = None
    depth: int = 0
    size: int = 1


@dataclass
class Scan:
    """names: all that the pickle looks up; storages: its persistent ids; filled: on what it sets items."""

    names: set[str] = field(default_factory=set)
    storages: list[Any] = field(default_factory=list)
    filled: set[str | None] = field(default_factory=set)


_MARK = Item("the mark")
_UNKNOWN = Item()


def scan_pickle(file: IO[bytes], size: int) -> Scan:
    """Walk the one pickle at the file's position, whole file `size` bytes, and stop behind it.

    Raises DamagedPickle for what no pickler writes.
    """
    machine = _Machine(size)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode, argument)
    except DamagedPickle:
        raise
    except Exception as error:  # pickletools says it in many ways: ValueError, UnicodeError, MemoryError ...
        raise DamagedPickle(str(error) or type(error).__name__) from error
    return machine.scan


class _Machine:
    """The unpickler's stack and memo, of what is known without building anything."""

    def __init__(self, size: int) -> None:
        self.scan = Scan()
        self._size = size
        self._steps = 0
        self._long_numbers = 0
        self._stack: list[Item] = []
        self._memo: dict[int, Item] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        self._steps += 1
        if type(argument) is int and argument.bit_length() > _LONG_BITS:
            self._count_long()
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._remember(len(self._memo) if name == "MEMOIZE" else argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "DUP":
            self._stack.append(self._top())
        elif name == "FRAME":
            if argument > self._size:
                raise DamagedPickle("a frame longer than the file")
        elif name == "POP":
            self._stack.pop()
        else:
            fixed, sliced = self._take(opcode)
            self._stack.extend(self._results(opcode, argument, fixed, sliced))

    def _count_long(self) -> None:
        self._long_numbers += 1
        if self._long_numbers > _MOST_LONG:
            raise DamagedPickle(f"more than {_MOST_LONG} numbers of over {_LONG_BITS} bits")

    def _top(self) -> Item:
        if not self._stack or self._stack[-1] is _MARK:
            raise DamagedPickle("an instruction without operands")
        return self._stack[-1]

    def _remember(self, index: int) -> None:
        # Picklers number what they remember; C's unpickler makes room for every number up to the one it reads.
        if not 0 <= index <= self._steps:
            raise DamagedPickle(f"number {index} for the {self._steps}th instruction")
        self._memo[index] = self._top()

    def _take(self, opcode: pickletools.OpcodeInfo) -> tuple[list[Item], list[Item]]:
        """Pop what the instruction consumes: those it names, and all above the mark if it asks for them."""
        wanted, sliced = list(opcode.stack_before), []
        if pickletools.markobject in wanted:
            while (item := self._stack.pop()) is not _MARK:
                sliced.append(item)
            wanted = wanted[: wanted.index(pickletools.markobject)]
        fixed = []
        for _ in wanted:
            fixed.append(self._top())
            self._stack.pop()
        return fixed[::-1], sliced[::-1]

    def _results(
        self, opcode: pickletools.OpcodeInfo, argument: Any, fixed: list[Item], sliced: list[Item]
    ) -> list[Item]:
        name = opcode.name
        if name in _TUPLES:
            return [_tuple(fixed + sliced)]
        if name in ("EMPTY_DICT", "DICT"):
            return [Item(Made("dict"))]
        if name in ("SETITEM", "SETITEMS"):
            self.scan.filled.add(str(fixed[0].value) if isinstance(fixed[0].value, Made) else None)
            return fixed[:1]
        if name in ("BUILD", "APPEND", "APPENDS", "ADDITEMS"):
            return fixed[:1]
        if name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            return [Item(Made(fixed[0].value)) if isinstance(fixed[0].value, Global) else _UNKNOWN]
        if name in ("PERSID", "BINPERSID"):
            self.scan.storages.append(fixed[0].value if fixed else argument)
            return [_UNKNOWN]
        if (asked := _asked(name, argument, fixed)) is not None:
            self.scan.names.add(str(asked))
            return [Item(asked)]
        known = isinstance(argument, int) or (isinstance(argument, str) and len(argument) <= _TEXT)
        return [Item(argument) if known else _UNKNOWN] * len(opcode.stack_after)


def _asked(opcode: str, argument: Any, fixed: list[Item]) -> Global | None:
    """The name that an instruction looks up, None if it does no such thing."""
    if opcode in ("GLOBAL", "INST"):
        return Global(argument.replace(" ", "."))
    if opcode == "STACK_GLOBAL":
        return Global(".".join(str(item.value) for item in fixed))
    if opcode.startswith("EXT"):
        return Global(f"copyreg extension {argument}")
    return None


def _tuple(items: list[Item]) -> Item:
    depth, size = 1 + max((item.depth for item in items), default=0), 1 + sum(item.size for item in items)
    if depth > _TUPLE_DEPTH or size > _TUPLE_SIZE:
        raise DamagedPickle("tuples nested too deeply")
    return Item(tuple(item.value for item in items) if len(items) <= 8 else None, depth, size)

"""Telling a damaged file from a machine that cannot read it just now."""

import errno

import torch


def is_of_the_machine(error: BaseException) -> bool:
    """Whether `error`, met while reading a file, is about memory, the disk or permissions and not about the content.

    Wrong places inside a file lead to EINVAL, so that counts as content.
    """
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)
    return is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a device's, or the CPU's as torch tells of it."""
    told = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and told)

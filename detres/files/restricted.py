"""Files of other toolkits read without trust: nothing that they name is imported or run."""

from detres.files.inert import Foreign
from detres.files.pickle_writer import write_pickle
from detres.files.restricted_pickle import UnsafeFileError, read_pickle
from detres.files.torch_file import read_torch
from detres.files.trouble import is_of_the_machine, is_out_of_memory

__all__ = [
    "Foreign",
    "UnsafeFileError",
    "is_of_the_machine",
    "is_out_of_memory",
    "read_pickle",
    "read_torch",
    "write_pickle",
]

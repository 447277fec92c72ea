"""Images of data.train that data.val takes to judge by."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from detres.config.data import OwnDataset
from detres.data.own import hold_out
from detres.jobs.doctor.records import Split


def mark_held_out(settings: OwnDataset, splits: Sequence[Split]) -> None:
    """Tell the training splits which of their images are held out: those that training itself leaves out."""
    training = [split for split in splits if split.role == "train"]
    ids = [image.id for split in training for image in split.images]
    if len(set(ids)) < len(ids):  # as detres.data.joined names them
        ids = [f"{number}:{image.id}" for number, split in enumerate(training) for image in split.images]
    if len(ids) < 2:
        return  # training says so, too
    is_held_out = np.zeros(len(ids), dtype=bool)
    is_held_out[hold_out(ids, settings.held_out)[1]] = True
    ends = np.cumsum([0, *(len(split.images) for split in training)]).tolist()
    for split, (start, stop) in zip(training, pairwise(ends), strict=True):
        split.held_out = frozenset(np.flatnonzero(is_held_out[start:stop]).tolist())

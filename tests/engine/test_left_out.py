"""What the data pipeline leaves out is counted, and told once."""

from dataclasses import replace

import torch

from detres.engine.left_out import count_left_out, describe_left_out
from detres.engine.records import Progress
from detres.structures import Batch, ImageBatch

_IMAGES = ImageBatch.from_images([torch.zeros(3, 4, 4, dtype=torch.uint8)], [(4, 4)], 1)
_BATCH = Batch(_IMAGES, torch.zeros(1, dtype=torch.int64), ["id"], ["file"])


def test_nothing_left_out():
    progress, said = Progress(), []
    count_left_out([], progress, said.append)
    count_left_out([_BATCH, _BATCH], progress, said.append)
    assert said == [] and describe_left_out(progress) == [] and progress == Progress()


def test_dropped_boxes_are_told_at_the_first_and_at_the_end():
    progress, said = Progress(step=6), []
    for count in (0, 1, 0, 4):
        count_left_out([replace(_BATCH, num_dropped_boxes=count), _BATCH], progress, said.append)
        progress.step += 1
    assert len(said) == 1 and said[0].startswith("the transforms cut away 1 box in step 8 ")
    assert describe_left_out(progress) == ["dropped in all: the transforms cut away 5 boxes"]


def test_skipped_images_are_named_at_first_and_then_counted():
    progress, said = Progress(), []
    for number in range(7):
        count_left_out([replace(_BATCH, skipped=(f"{number}.jpg: empty",))], progress, said.append)
    assert said[:5] == [f"skipped: {number}.jpg: empty" for number in range(5)]
    assert len(said) == 6 and "only counted" in said[5]
    assert describe_left_out(progress) == ["skipped in all: 7 unreadable images, replaced by others"]

"""Inputs for the property tests. Coordinates are quarters of pixels, so that plain arithmetic is exact."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)

quarters = st.integers(-80, 400).map(lambda number: number / 4)
lengths = st.integers(0, 160).map(lambda number: number / 4)
scores = st.integers(0, 64).map(lambda number: number / 64)  # equal ones are wanted


@st.composite
def box_lists(draw: st.DrawFn, max_size: int = 12, min_length: float = 0.0) -> Tensor:
    """(B, 4) boxes, also empty, equal, touching and outside ones; each side at least `min_length`."""
    rows = draw(st.lists(st.tuples(quarters, quarters, lengths, lengths), max_size=max_size))
    corners = [[x, y, x + max(w, min_length), y + max(h, min_length)] for x, y, w, h in rows]
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


@st.composite
def detections(draw: st.DrawFn, max_size: int = 12, min_length: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (D, 4), scores (D,) and labels 0 ... 2 (D,)."""
    boxes = draw(box_lists(max_size, min_length))
    count = len(boxes)
    values = draw(st.lists(scores, min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return boxes, torch.tensor(values, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes (4,), step by step in double precision; 0 where they do not meet."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if width * height > 0 else 0.0


def plain_ious(a: Tensor, b: Tensor) -> np.ndarray:
    """(A, B) by a loop."""
    pairs = [[plain_iou(x, y) for y in b.double().numpy()] for x in a.double().numpy()]
    return np.array(pairs, dtype=np.float64).reshape(len(a), len(b))

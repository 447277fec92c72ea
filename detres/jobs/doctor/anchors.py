"""Whether the anchors fit the training set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detres.config import Config
from detres.data.annotations import clip_to_images
from detres.jobs.doctor.boxes import Faults, examples_of, usable_boxes
from detres.jobs.doctor.coverage import IOUS, LEGEND, SIZES, coverage_rows, grid_of, join, measure, training_sizes_of
from detres.jobs.doctor.findings import MAX_EXAMPLES, Findings
from detres.jobs.doctor.records import NO_SIZE, Split

ENOUGH = 0.9
"""The share of a group's objects that should reach the first of IOUS; the second, which fewer do, is only shown."""
FEWEST = 10
"""A group of fewer objects is not judged."""


def steps_of(config: Config) -> list[dict[str, Any]]:
    """The training transforms as plain settings."""
    return [step.model_dump() for step in config.data.train_transforms]


def smallest_scales(config: Config, sizes_hw: np.ndarray) -> np.ndarray:
    """The least factor (N,) by which the training transforms resize each image (N, 2)."""
    variants = training_sizes_of(sizes_hw, steps_of(config))
    least: np.ndarray = (variants / sizes_hw[:, None]).min(axis=(1, 2), initial=np.inf)
    return least


def check_anchors(
    config: Config, splits: Sequence[Split], faults: Sequence[Faults], sizes: Sequence[np.ndarray], findings: Findings
) -> None:
    """Measure the coverage of the objects to learn in the training splits; a warning for each group that falls short.

    A model that cannot be built is reported, too.
    """
    num_classes = max(1, *(len(split.class_names) for split in splits))
    try:
        grid = grid_of(config, num_classes)
    except (ValueError, OSError, ImportError) as error:
        findings.add("anchor_coverage", f"the model cannot be built: {error}", severity="error")
        return
    parts, areas, owners = [], [], []
    for number, (split, found, sizes_hw) in enumerate(zip(splits, faults, sizes, strict=True)):
        if split.role != "train":
            continue
        has_size = sizes_hw[split.boxes.images, 0] < NO_SIZE
        is_learned = split.of_role("train")[split.boxes.images]
        rows = np.flatnonzero(usable_boxes(found) & ~split.boxes.ignore & has_size & is_learned)
        images = split.boxes.images[rows]
        boxes = clip_to_images(split.boxes.boxes_xyxy[rows], sizes_hw[images])
        variants = training_sizes_of(sizes_hw, steps_of(config))[images]
        parts.append(measure(boxes, sizes_hw[images], variants, grid))
        areas.append(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        owners += [(number, row) for row in rows.tolist()]
    coverage = join(parts)
    area = np.concatenate(areas)
    finding = findings.by_key["anchor_coverage"]
    finding.rows, finding.of, finding.legend = coverage_rows(coverage, area), len(area), LEGEND  # type: ignore[assignment]
    short = _falls_short(coverage.reached, area)
    if not short:
        return
    order = np.argsort(coverage.best, kind="stable")[:MAX_EXAMPLES]
    missed = int((coverage.reached[0] < 0.5).sum())
    finding.count = max(1, missed)
    for position in order.tolist():
        number, row = owners[position]
        best = f"; best anchor: IoU {coverage.best[position]:.2f}"
        finding.examples += examples_of(splits[number], np.array([row]), best)
    first = finding.examples[0]
    finding.examples[0] = first._replace(text=f"{', '.join(short)}; the worst: {first.text}")


def _falls_short(reached: np.ndarray, areas: np.ndarray) -> list[str]:
    """The groups of objects, in words, of which too few reach an IoU."""
    texts = []
    for name, (low, high) in SIZES.items():
        mask = (areas >= low) & (areas < high)
        share = reached[0, mask].mean() if mask.sum() >= FEWEST else 1.0
        if share < ENOUGH:
            texts.append(f"{share:.0%} of the {name} objects reach IoU {IOUS[0]}")
    return texts

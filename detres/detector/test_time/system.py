"""The system: trained detectors, and all that is done around them at test time.

From the inside out: a network's heads at one scale or, by maxout, at two; the mean over the networks of an ensemble;
box refinement and voting; the merging of several views of the image (ResNet paper, appendix B).

Shapes: N images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detres.detector.faster_rcnn import FasterRCNN
from detres.detector.selection import Selection
from detres.detector.test_time.ensemble import Averaged, union_of_proposals
from detres.detector.test_time.fusion import Merging
from detres.detector.test_time.maxout import TwoScales
from detres.detector.test_time.refinement import predict_with_refinement
from detres.detector.test_time.scoring import OneScale, Scorer
from detres.detector.test_time.views import Transform, View, batch_of
from detres.structures import Detections, ImageBatch, Proposals


class DetectionSystem(nn.Module):
    """Detectors at test time; it takes images as they were read, and resizes them itself: it is not the model.

    models             one detector, or the members of an ensemble
    views              how the images are seen; proposals are made at their sizes
    selection          how detections are chosen in each view
    columns            for each model, where it has each of the K classes; None: in one order
    refinement_rounds  how often regions are pooled again where they moved to
    pyramid            the sizes at which the heads see the regions, by maxout over two; empty: that of the view
    region_size        which two: those at which a region's area is nearest to its square (pixels)
    merging            of several views; None: there is one
    """

    def __init__(
        self,
        models: Sequence[FasterRCNN],
        views: Sequence[View],
        selection: Selection,
        *,
        columns: Sequence[Sequence[int]] | None = None,
        refinement_rounds: int = 0,
        pyramid: Sequence[Transform] = (),
        region_size: float = 224.0,
        merging: Merging | None = None,
    ) -> None:
        super().__init__()
        if not models:
            raise ValueError("a detection system needs at least one detector, got none")
        if columns is not None and len(columns) != len(models):
            raise ValueError(f"expected one order of the classes per detector, got {len(columns)} for {len(models)}")
        if len(views) != 1 and merging is None:
            raise ValueError(f"got {len(views)} views and no merging, expected one view, or how several are merged")
        self.models = nn.ModuleList(models)
        self.views, self.selection, self.columns = list(views), selection, columns
        self.refinement_rounds, self.pyramid, self.region_size = refinement_rounds, list(pyramid), region_size
        self.merging = merging

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> list[Detections]:
        """One Detections per image, in pixels of the images as they are given; call in eval mode."""
        found = [self._look(images, view) for view in self.views]
        if self.merging is None:
            return found[0]
        return [self.merging(views) for views in zip(*found, strict=True)]

    def _look(self, images: ImageBatch, view: View) -> list[Detections]:
        """What is found in one view, in pixels of `images`."""
        shown = view.show(images)
        pyramid = [view.at(transform).show(images) for transform in self.pyramid]
        frame = batch_of(shown, images, 1)  # the networks may pad differently; sizes and places are the same
        parts = [self._prepare(model, shown, pyramid, images) for model in self.models]
        regions, valid = union_of_proposals([proposals for _, proposals in parts])
        scorer = Averaged([scorer for scorer, _ in parts], self.columns)
        found = predict_with_refinement(scorer, regions, valid, frame.sizes_hw, self.refinement_rounds)
        chosen = map(self.selection, found.scores, found.boxes, found.valid, frame.sizes_hw)
        return view.back(list(chosen), frame)

    def _prepare(
        self, model: nn.Module, shown: Sequence[Tensor], pyramid: Sequence[Sequence[Tensor]], images: ImageBatch
    ) -> tuple[Scorer, Proposals]:
        """One network's scorer of regions and its proposals, both in pixels of the view."""
        assert isinstance(model, FasterRCNN)
        divisibility = model.pixels.size_divisibility
        batch = batch_of(shown, images, divisibility)
        scorer = OneScale(model, batch)
        proposals, _ = model.rpn(batch, scorer.features)
        if not pyramid:
            return scorer, proposals.trimmed()
        scales = [batch_of(scale, images, divisibility) for scale in pyramid]
        return TwoScales(model, batch, scales, self.region_size), proposals.trimmed()

"""Dense testing of a localizer: whole images at several sizes, by option mirrored too (ResNet paper, appendix C).

The paper names it "dense (fully convolutional) and multi-scale testing", and leaves open how the sizes are merged:

- in each view a class is where its best anchor of the whole map is, as without this;
- the score of a class is the mean over the views, as its section 3.4 averages the scores of a classifier at several
  scales; by the best of them the true class came first less often (Tiny-ImageNet, any sizes tried);
- its box is a vote: the mean, weighted by score, of the views' boxes that overlap the best-scored of them. That one
  alone was no better than a single size; a vote of all positions fitted about as many objects, and less tightly.

Shapes: N images, K classes, T classes asked for, V views.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detres.detector.localizer import Localizer, Response
from detres.detector.test_time.views import View, batch_of
from detres.detector.voting import vote
from detres.structures import Detections, ImageBatch


class DenseResponse(NamedTuple):
    """What the network makes of a batch in V views: the mean scores (N, K), and each view's batch and response."""

    scores: Tensor
    seen: list[ImageBatch]
    responses: list[Response]


class DenseLocalizer(nn.Module):
    """A localizer in several views; it takes images as they were read, and resizes them itself: it is not the model.

    localizer   looks at the whole of each view, whatever its test_crop
    views       how the images are seen
    voting_iou  of the views' boxes with the best-scored one, from which on they vote; None: that one, as it is
    """

    def __init__(self, localizer: Localizer, views: Sequence[View], voting_iou: float | None = 0.5) -> None:
        super().__init__()
        if not views:
            raise ValueError("dense testing needs at least one view, got none")
        self.localizer, self.views, self.voting_iou = localizer, list(views), voting_iou

    @torch.no_grad()
    def predict(self, images: ImageBatch, labels: Tensor | None = None) -> list[Detections]:
        """As Localizer.predict: one box for each of the most likely classes, or for each of `labels` (N, T) int64."""
        response = self.respond(images)
        return self.locate(response, self.most_likely(response) if labels is None else labels, images)

    @torch.no_grad()
    def respond(self, images: ImageBatch) -> DenseResponse:
        """Look at a batch once in every view, for any number of calls of `locate`."""
        divisibility = self.localizer.pixels.size_divisibility
        seen = [batch_of(view.show(images), images, divisibility) for view in self.views]
        responses = [self.localizer.respond(batch, whole=True) for batch in seen]
        return DenseResponse(torch.stack([each.scores for each in responses]).mean(dim=0), seen, responses)

    def most_likely(self, response: DenseResponse) -> Tensor:
        """As Localizer.most_likely, by the mean scores."""
        return self.localizer.most_likely(response)

    @torch.no_grad()
    def locate(self, response: DenseResponse, labels: Tensor, images: ImageBatch) -> list[Detections]:
        """The box of each of the classes `labels` (N, T) in the images of a response, in that order."""
        found = [
            view.back(self.localizer.locate(each, labels, seen), seen)
            for view, seen, each in zip(self.views, response.seen, response.responses, strict=True)
        ]
        scores = response.scores.gather(1, labels)
        merged = [self._merge(views) for views in zip(*found, strict=True)]
        return [replace(one, scores=mean) for one, mean in zip(merged, scores, strict=True)]

    def _merge(self, found: Sequence[Detections]) -> Detections:
        """Of V views of one image with the same T classes: the best-scored view's boxes, by option moved by a vote."""
        boxes, scores = torch.stack([each.boxes_xyxy for each in found]), torch.stack([each.scores for each in found])
        best = boxes.gather(0, scores.argmax(dim=0)[None, :, None].expand(1, -1, 4))[0]
        labels = found[0].labels
        if self.voting_iou is not None:
            of_each = labels.repeat(len(found))
            best = vote(best, labels, boxes.flatten(0, 1), scores.flatten(), of_each, self.voting_iou)
        return replace(found[0], boxes_xyxy=best)

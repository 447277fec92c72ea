"""Test protocols: one score per image from several views of it or several networks, averaged as probabilities.

Shapes: N images, K classes, S side of a crop. All give log-probabilities (N, K), so that they can be combined: an
Ensemble of TenCrops and a TenCrop of an Ensemble are the same. Nothing here resizes: the data pipeline does.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detres.structures import ImageBatch


class WholeImage(nn.Module):
    """The network on whole images of any size, without padding: its convolutions, then the mean over all positions.

    For a network that ends in pooling and one linear layer this is the fully convolutional form of Simonyan and
    Zisserman (2015, section 3.2) that the ResNet paper tests with (section 3.4). Images of one size are scored
    together, so a score does not depend on what else is in the batch. With `flip` the mirror image counts as much.
    """

    def __init__(self, model: nn.Module, flip: bool = False) -> None:
        super().__init__()
        self.model, self.flip = model, flip

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Tensor:
        """Log-probabilities (N, K); call in eval mode."""
        sizes, group = images.sizes_hw.unique(dim=0, return_inverse=True)
        places = [torch.nonzero(group == number).flatten() for number in range(len(sizes))]
        parts = [_unpadded(images, rows, h, w) for rows, (h, w) in zip(places, sizes.tolist(), strict=True)]
        return torch.cat([self._score(part) for part in parts])[torch.cat(places).argsort()]

    def _score(self, images: ImageBatch) -> Tensor:
        views = [log_probabilities(self.model, images)]
        if self.flip:
            views.append(log_probabilities(self.model, _mirrored(images)))
        return mean_of_probabilities(views)


class TenCrop(nn.Module):
    """Ten views of each image: the corners and the centre, `size` x `size`, and their mirror images.

    Source: Krizhevsky et al. (2012), section 4.1; the ResNet paper, section 3.4. The crops lie inside each image, not
    its padding. The centre is the one of the step center_crop.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Tensor:
        """Log-probabilities (N, K); call in eval mode. Raises ValueError for images smaller than the crop."""
        small = torch.nonzero((images.sizes_hw < self.size).any(dim=1)).flatten().tolist()
        if small:
            height, width = images.sizes_hw[small[0]].tolist()
            raise ValueError(
                f"ten-crop: got an image of {height} x {width} pixels (height x width), expected at least {self.size} "
                "on either side; resize to more, or take smaller crops (eval.protocol.resize and size)"
            )
        views = []
        for crop in five_crops(images, self.size):  # view by view, so that memory is that of one view
            views += [log_probabilities(self.model, crop), log_probabilities(self.model, _mirrored(crop))]
        return mean_of_probabilities(views)


class Ensemble(nn.Module):
    """Several networks, or protocols around them, with equal weight.

    `columns`, where a member names its classes in another order: for each member, where it has each of the K classes.
    """

    def __init__(self, members: Sequence[nn.Module], columns: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one network, got none")
        if columns is not None and len(columns) != len(members):
            raise ValueError(f"expected one order of the classes per network, got {len(columns)} for {len(members)}")
        self.members = nn.ModuleList(members)
        self.columns = None if columns is None else [list(order) for order in columns]

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Tensor:
        """Log-probabilities (N, K); call in eval mode. Raises ValueError when the members' K differ."""
        scores = [log_probabilities(member, images) for member in self.members]
        if self.columns is not None:
            scores = [score[:, order] for score, order in zip(scores, self.columns, strict=True)]
        if len({score.shape for score in scores}) > 1:
            found = ", ".join(str(score.shape[1]) for score in scores)
            raise ValueError(f"the networks of an ensemble must score the same classes, got {found} classes")
        return mean_of_probabilities(scores)


def log_probabilities(model: nn.Module, images: ImageBatch) -> Tensor:
    """Log-probabilities (N, K) float32 of a network that predicts logits; log-probabilities stay what they are."""
    scores: Tensor = model.predict(images)  # type: ignore[operator]
    return scores.float().log_softmax(dim=1)


def mean_of_probabilities(log_probabilities: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, all given as logarithms of one shape."""
    return torch.stack(list(log_probabilities)).logsumexp(dim=0) - math.log(len(log_probabilities))


def five_crops(images: ImageBatch, size: int) -> list[ImageBatch]:
    """Top left, top right, bottom left, bottom right and centre of each image: five batches of `size` x `size`."""
    room = images.sizes_hw - size
    top_left = torch.zeros_like(room)
    right, down = room * room.new_tensor([0, 1]), room * room.new_tensor([1, 0])
    return [_windows(images, corner, size) for corner in (top_left, right, down, room, room // 2)]


def _windows(images: ImageBatch, corners_yx: Tensor, size: int) -> ImageBatch:
    """The window of `size` x `size` of each image whose upper left corner is given: (N, 2)."""
    along = torch.arange(size, device=corners_yx.device)
    rows, columns = (corners_yx[:, side, None] + along for side in (0, 1))
    each = torch.arange(len(images), device=corners_yx.device)[:, None, None]
    pixels = images.pixels.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return replace(images, pixels=pixels, sizes_hw=torch.full_like(images.sizes_hw, size))


def _unpadded(images: ImageBatch, chosen: Tensor, height: int, width: int) -> ImageBatch:
    """The chosen images, all of one height and width."""
    return ImageBatch(
        images.pixels[chosen, :, :height, :width],
        images.sizes_hw[chosen],
        images.original_sizes_hw[chosen],
        images.sampling_seeds[chosen],
    )


def _mirrored(images: ImageBatch) -> ImageBatch:
    """The mirror images of a batch without padding."""
    return replace(images, pixels=images.pixels.flip(-1))

"""The values that travel between the rooms of the package: image batches, ground truth, detections, classifications."""

from detres.structures.batch import Batch, BatchNote
from detres.structures.classification import Classification
from detres.structures.detections import Detections
from detres.structures.ground_truth import GroundTruth
from detres.structures.image_batch import ImageBatch
from detres.structures.proposals import Proposals

__all__ = ["Batch", "BatchNote", "Classification", "Detections", "GroundTruth", "ImageBatch", "Proposals"]

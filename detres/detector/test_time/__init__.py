"""Systems around trained detectors at test time: box refinement, several scales, augmentation, ensembles; and dense
testing of localizers."""

from detres.detector.selection import Selection
from detres.detector.test_time.dense import DenseLocalizer
from detres.detector.test_time.fusion import Merging
from detres.detector.test_time.system import DetectionSystem
from detres.detector.test_time.views import Transform, View

__all__ = ["DenseLocalizer", "DetectionSystem", "Merging", "Selection", "Transform", "View"]

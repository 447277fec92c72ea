"""Settings of the data: data sets, transforms, loading. Relative paths are below DETRES_DATASETS, or datasets/."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detres.config.classification_steps import (
    ColorJitter,
    PadAndCrop,
    PcaLighting,
    RandAugment,
    RandomErasing,
    RandomResizeShortest,
    TrivialAugment,
)
from detres.config.fields import ByType, Fraction, NonNegativeInt, OneOrMore, PositiveFloat, PositiveInt, Settings


class CocoDataset(Settings):
    """A COCO instances file and its image folder (detres.data.coco)."""

    type: Literal["coco"]
    annotations: str
    images: str
    image_ids: Annotated[list[int], Field(min_length=1)] | None = None  # only these images
    max_images: PositiveInt | None = None  # only the first ones, by image id


class VocDataset(Settings):
    """A folder in VOC layout: Annotations/, JPEGImages/, ImageSets/Main/{split}.txt (detres.data.voc)."""

    type: Literal["voc"]
    root: str  # for instance VOCdevkit/VOC2007
    split: str
    class_names: list[str] | None = None  # None: the names in the annotations, sorted
    use_difficult: bool = False  # False: difficult objects are ignored regions in training
    annotated: bool = True  # False: there are no XML files, as for VOC2012's test images; class_names must be given
    max_images: PositiveInt | None = None


class OwnDataset(Settings):
    """Images of the user's own: a COCO instances file or a folder of VOC's XML files, and the images (detres.data.own).

    Its paths count from the working directory where something is there, else below DETRES_DATASETS.
    """

    type: Literal["own"]
    annotations: str | None = None  # null, in data.val: some of the training images are held out
    images: str | None = None  # null, in data.val and data.test: the folder of data.train
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2  # share of the training images, where annotations is null


class ImageNetLocDataset(Settings):
    """ImageNet's CLS-LOC folders: Data/CLS-LOC/{split}/ and Annotations/CLS-LOC/{split}/ (detres.data.imagenet_loc)."""

    type: Literal["imagenet_loc"]
    root: str  # the folder that holds Data/ and Annotations/
    split: Literal["train", "val"]
    class_names: list[str] | None = None  # None: the WordNet ids in the annotations, sorted
    max_images: PositiveInt | None = None


class BoxListDataset(Settings):
    """A folder of images and text files that list their boxes, as Tiny-ImageNet's (detres.data.box_lists)."""

    type: Literal["box_lists"]
    root: str
    boxes: str  # a file, or a glob of several: lines `name x1 y1 x2 y2` or `name class x1 y1 x2 y2 ...`
    class_names: list[str] | None = None  # None: the classes listed, sorted
    max_images: PositiveInt | None = None


class ImageFolderDataset(Settings):
    """Classification: one folder of images per class (detres.data.image_folder)."""

    type: Literal["image_folder"]
    root: str


class FlatImagesDataset(Settings):
    """Classification: a folder of images and a list of their classes (detres.data.flat_images)."""

    type: Literal["flat_images"]
    root: str
    labels: str  # the devkit's ground truth, LOC_val_solution.csv, val_annotations.txt, or lines name,class
    classes: str | None = None  # a file of class names, one per line; None: those listed. The training set's come first


class Cifar10Dataset(Settings):
    """CIFAR-10 (detres.data.cifar): 45,000 images to train on, 5,000 of the same files to validate, 10,000 to test."""

    type: Literal["cifar10"]
    root: str
    split: Literal["train", "val", "trainval", "test"]


CLASSIFICATION_DATASETS = (ImageFolderDataset, FlatImagesDataset, Cifar10Dataset)


class OutsideDataset(Settings):
    """A data set of the user's: `type: my_package.module:Class`, built as Class(**args)."""

    type: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    args: dict[str, object] = {}


Dataset = Annotated[
    CocoDataset
    | VocDataset
    | OwnDataset
    | ImageNetLocDataset
    | BoxListDataset
    | ImageFolderDataset
    | FlatImagesDataset
    | Cifar10Dataset
    | OutsideDataset,
    ByType(),
]


class ResizeShortest(Settings):
    """Shorter side to one of `short` (chosen at random), longer side at most `max`."""

    type: Literal["resize_shortest"]
    short: Annotated[list[PositiveInt], Field(min_length=1)]
    max: PositiveInt | None = None


class ResizeFixed(Settings):
    """To `height` x `width`, whatever the aspect ratio."""

    type: Literal["resize"]
    height: PositiveInt
    width: PositiveInt


class HorizontalFlip(Settings):
    """Mirror with probability `p`."""

    type: Literal["horizontal_flip"]
    p: Fraction = 0.5


class LargeScaleJitter(Settings):
    """Scale to `min_scale`..`max_scale` of a `size` square, then crop or leave room for padding (LSJ)."""

    type: Literal["large_scale_jitter"]
    size: PositiveInt = 1024
    min_scale: PositiveFloat = 0.1
    max_scale: PositiveFloat = 2.0

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        if self.min_scale > self.max_scale:
            yield "min_scale", f"got {self.min_scale}, expected at most max_scale ({self.max_scale})"


class RandomCrop(Settings):
    """A random window of `height` x `width` (smaller images stay as they are)."""

    type: Literal["random_crop"]
    height: PositiveInt
    width: PositiveInt


class CenterCrop(Settings):
    """The central window of `size` x `size`."""

    type: Literal["center_crop"]
    size: PositiveInt


class RandomResizedCrop(Settings):
    """A random window by area and aspect ratio, resized to `size` (classification)."""

    type: Literal["random_resized_crop"]
    size: PositiveInt
    scale: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [0.08, 1.0]
    ratio: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [0.75, 1.3333333333333333]

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                yield name, f"got {[low, high]}, expected the smaller bound first"


class Albumentation(Settings):
    """Any albumentations transform that supports boxes, by name and arguments."""

    type: Literal["albumentations"]
    name: str
    args: dict[str, object] = {}


Transform = Annotated[
    ResizeShortest
    | ResizeFixed
    | HorizontalFlip
    | LargeScaleJitter
    | RandomCrop
    | CenterCrop
    | RandomResizedCrop
    | RandomResizeShortest
    | PadAndCrop
    | PcaLighting
    | ColorJitter
    | TrivialAugment
    | RandAugment
    | RandomErasing
    | Albumentation,
    ByType(),
]


class CacheSettings(Settings):
    """Decoded training images kept in memory (detres.data.image_cache), shared by all workers of a process."""

    megabytes: PositiveInt  # at most, of 2^20 bytes; each process of a training takes as much


class DataSettings(Settings):
    """The data sets of a run. `train` may be one or a list (07+12): they are joined, their classes must agree."""

    train: OneOrMore[Dataset]
    val: Dataset
    test: Dataset | None = None
    train_transforms: list[Transform] = []
    eval_transforms: list[Transform] = []
    keep_empty_images: bool = True  # train on images without objects
    min_box_size: Annotated[float, Field(ge=0)] = 1.0  # boxes smaller than this after the transforms are dropped, px
    on_bad_image: Literal["error", "skip"] = "error"  # missing, truncated or unreadable files
    on_bad_box: Literal["drop", "error"] = "drop"  # zero or negative size, outside, NaN
    aspect_ratio_grouping: bool = True
    repeat_threshold: Fraction = 0.0  # class-balanced sampling (LVIS repeat factor); 0: off
    # JPEGs that the transforms begin by shrinking, to a third or less: decode them whole, or at 1/2, 1/4, 1/8 of their
    # size, which is quicker and changes pixels a little (not sizes or boxes). auto: reduced in training, else full
    decode: Literal["auto", "full", "reduced"] = "auto"
    cache: CacheSettings | None = None
    workers: NonNegativeInt = 2
    prefetch: PositiveInt = 2  # batches that each worker has ready
    worker_timeout: PositiveFloat = 300.0  # seconds without a batch after which loading is an error
    worker_restarts: NonNegativeInt = 0  # how often a run replaces training workers that died or hung, before it stops

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        named = {f"train.{index}": dataset for index, dataset in enumerate(self.train)}
        named |= {"val": self.val} | ({"test": self.test} if self.test is not None else {})
        for name, dataset in named.items():
            if not isinstance(dataset, OwnDataset):
                continue
            if dataset.annotations is None and name != "val":
                yield f"{name}.annotations", "got null, expected a COCO instances file or a folder of VOC's XML files"
            alone = name.startswith("train") or not isinstance(self.train[0], OwnDataset)
            if dataset.images is None and dataset.annotations is not None and alone:
                yield f"{name}.images", "got null, expected the folder of the images"

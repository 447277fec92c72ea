"""ImageNet's 1000 classes (ILSVRC 2012): WordNet ids in label order, and their words."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def imagenet_ids() -> tuple[str, ...]:
    """The WordNet ids by label; they are in the order of the alphabet, as the folders of the data set are."""
    return tuple(Path(__file__).with_name("imagenet_ids.txt").read_text(encoding="ascii").split())


def with_words(class_names: Sequence[str]) -> tuple[str, ...]:
    """Class names for people: `n01440764` becomes `n01440764 tench`; names that are no ids of ImageNet's stay."""
    if not any(name in _ids() for name in class_names):
        return tuple(class_names)
    from torchvision.models import ResNet50_Weights

    words = dict(zip(imagenet_ids(), ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
    return tuple(f"{name} {words[name]}" if name in words else name for name in class_names)


@cache
def _ids() -> frozenset[str]:
    return frozenset(imagenet_ids())

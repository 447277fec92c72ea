"""The names of a whole classifier: torchvision's, as public files have them, and detres's.

torchvision's  conv1.*, layer1.*, ..., fc.* (ResNet); features.*, classifier.0.*, .3.*, .6.* (VGG)
detres's       the same behind `backbone.`, but fc.* stays; VGG's three are head.fc6.*, head.fc7.*, fc.*
"""

from collections.abc import Mapping

from torch import Tensor

_BACKBONE = "backbone."
_PIXELS = "pixels."  # a mean image learned from the training set; torchvision's files hold no normalisation
_VGG_HEAD = {"classifier.0.": "head.fc6.", "classifier.3.": "head.fc7.", "classifier.6.": "fc."}
_HEADS = {"fc.": "fc.", "linear.": "fc.", **_VGG_HEAD}  # `linear` in public CIFAR ResNets


def classifier_from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of a detres classifier."""
    return {_ours(key): tensor for key, tensor in state_dict.items()}


def classifier_to_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torchvision's names, for `torchvision.models.resnet50().load_state_dict(...)`.

    Raises ValueError for a state dict that is no detres classifier's.
    """
    if strange := [key for key in state_dict if not key.startswith((_BACKBONE, _PIXELS, *_HEADS.values()))]:
        raise ValueError(
            f"expected the state dict of a detres classifier (backbone.*, head.*, fc.*), found {', '.join(strange[:3])}"
        )
    heads = {ours: theirs for theirs, ours in _VGG_HEAD.items()} if "head.fc6.weight" in state_dict else {}
    return {_theirs(key, heads): tensor for key, tensor in state_dict.items() if not key.startswith(_PIXELS)}


def in_classifier_names(state_dict: Mapping[str, Tensor], model_keys: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict for a model with these keys: a public classifier's renamed if that is what meets a classifier."""
    is_classifier = "fc.weight" in model_keys and any(key.startswith(_BACKBONE) for key in model_keys)
    if not is_classifier or any(key.startswith(_BACKBONE) for key in state_dict):
        return state_dict
    return classifier_from_torchvision(state_dict)


def _ours(key: str) -> str:
    for theirs, ours in _HEADS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return _BACKBONE + key


def _theirs(key: str, heads: Mapping[str, str]) -> str:
    for ours, theirs in heads.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key.removeprefix(_BACKBONE)

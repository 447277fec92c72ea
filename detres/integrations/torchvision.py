"""torchvision: our backbones in its detectors, its backbones in ours, and our Faster R-CNN as one of its own.

Shapes: N images of H x W pixels; the map of stride s is (N, C, H/s, W/s).
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from detres.backbones.interface import FeatureSpec
from detres.integrations.foreign import (
    FEATURES,
    ForeignBackbone,
    FoundMap,
    check_model,
    choose_maps,
    describe_map,
    probe_pixels,
    refuse_options,
)
from detres.integrations.torchvision_backbone import AdaptedBackbone, torchvision_backbone
from detres.integrations.torchvision_detector import to_torchvision

__all__ = ["AdaptedBackbone", "TorchvisionBackbone", "to_torchvision", "torchvision_backbone"]

_REFUSED = {
    "weights": "the constructor downloads nothing; call load_pretrained()",
    "num_classes": "the classifier is left out",
}


class TorchvisionBackbone(ForeignBackbone):
    """A classification network of torchvision as a backbone, in YAML as

        backbone: {type: "detres.integrations.torchvision:TorchvisionBackbone", args: {model: convnext_tiny}}

    model          of torchvision.models.list_models(module=torchvision.models) whose layers follow one another:
                   ResNet, ResNeXt, wide ResNet, RegNet, ConvNeXt, DenseNet, EfficientNet, MobileNet, VGG, Swin, ...
    out_features   which of its maps to return; c{log2(stride)} is the last of that stride; layers after go
    frozen_stages  k: what leads to c{k} does not learn; 0: everything does
    frozen_batch   batch norms keep their statistics and do not learn
    options        go to torchvision's constructor of the model

    Weights are random until `load_pretrained`. Parameters are named as in torchvision. Raises ValueError for unknown
    models and maps.
    """

    def __init__(
        self,
        model: str,
        *,
        out_features: Sequence[str] = FEATURES,
        frozen_stages: int = 0,
        frozen_batch: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        check_model(model, "torchvision", torchvision.models.list_models(module=torchvision.models))
        refuse_options(options, _REFUSED)
        self.model_name, self.options = model, options
        network = torchvision.models.get_model(model, weights=None, **options)
        try:
            taps = _find_maps(network)
        except Exception as error:
            text = f"model: the layers of {model} do not follow one another ({error}); choose another network"
            raise ValueError(text) from error
        specs: dict[str, FeatureSpec] = {found.name: found.spec for found in taps.values()}
        self.feature_specs = choose_maps(model, specs, out_features)
        last = list(specs).index(list(self.feature_specs)[-1])
        self.taps: dict[str, FoundMap] = dict(list(taps.items())[: last + 1])
        self._take_layers(network, list(self.taps)[-1])
        self.train()
        self.freeze(frozen_stages, frozen_batch)

    def _take_layers(self, network: nn.Module, last: str) -> None:
        """Register the layers of the network up to that of the given name, under the names that they have there."""
        for name, child in network.named_children():
            kept = OrderedDict()
            for inner, step in child.named_children() if _is_chain(child) else ():
                kept[inner] = step
                if f"{name}.{inner}" == last:
                    break
            self.add_module(name, nn.Sequential(kept) if _is_chain(child) else child)
            if last.split(".")[0] == name:
                return

    def all_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of every stride up to the last of `feature_specs`."""
        x, maps = pixels, {}
        for name, step in _steps(self):
            x = step(x)
            if found := self.taps.get(name):
                maps[found.name] = x if found.channels_first else x.permute(0, 3, 1, 2)
        return maps

    def load_pretrained(self, weights: str = "DEFAULT") -> str:
        """Download (or take from torch's cache) and load weights that torchvision publishes; returns their name."""
        trained = torchvision.models.get_model(self.model_name, weights=weights, **self.options).state_dict()
        self.load_state_dict({name: trained[name] for name in self.state_dict()})
        return f"torchvision {self.model_name} {weights}"

    def pretrained_pixels(self, weights: str = "DEFAULT") -> dict[str, list[float]]:
        """`mean` and `std` (0..255, RGB) of the pixels that the published weights were trained on: model.pixels."""
        preset = torchvision.models.get_model_weights(self.model_name)[weights].transforms()
        return {key: [255 * value for value in getattr(preset, key)] for key in ("mean", "std")}


def _steps(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a network in order, those of its chains one by one, with their names."""
    for name, child in network.named_children():
        if _is_chain(child):
            yield from ((f"{name}.{inner}", step) for inner, step in child.named_children())
        else:
            yield name, child


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


@torch.no_grad()
def _find_maps(network: nn.Module) -> dict[str, FoundMap]:
    """The last layer of every stride, and the map that it makes, by rising stride; ends where maps end."""
    network.eval()
    x, last = probe_pixels(network), {}
    for name, step in _steps(network):
        # Maps end where they are pooled to one value: by a layer, or by the network's own code before its classifier.
        if isinstance(step, (nn.Linear, nn.Dropout)) or (found := describe_map(x := step(x))) is None:
            break
        last[found.name] = (name, found)
    return dict(last.values())

"""timm: its backbones in our detectors.

Shapes: N images of H x W pixels; the map of stride s is (N, C, H/s, W/s).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from detres.backbones.interface import FeatureSpec
from detres.integrations.foreign import FEATURES, ForeignBackbone, check_model, choose_maps, refuse_options

_REFUSED = {
    "pretrained": "the constructor downloads nothing; call load_pretrained(), or set model.backbone.weights",
    "checkpoint_path": "use model.backbone.weights, or pretrained_cfg_overlay: {file: PATH} and load_pretrained()",
    "features_only": "it is always true",
    "out_indices": "name the maps by out_features",
}


class TimmBackbone(ForeignBackbone):
    """A network of timm (`features_only`) as a backbone, in YAML as

        backbone: {type: "detres.integrations.timm:TimmBackbone", args: {model: convnext_tiny}}

    model          of timm.list_models(), with or without the tag of its weights (resnet50d, resnet50.a1_in1k)
    out_features   which of its maps to return; c{log2(stride)} is the last of that stride
    frozen_stages  k: what leads to c{k} does not learn; 0: everything does
    frozen_batch   batch norms keep their statistics and do not learn
    options        go to timm.create_model: img_size, drop_path_rate, output_stride, ...

    Weights are random until `load_pretrained`. Parameters are timm's under `net.`. Raises ImportError without timm,
    ValueError for unknown models and maps.
    """

    net: Any  # timm's feature extractors share an interface, not a class

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
        timm = _timm()
        check_model(model.partition(".")[0], "timm", timm.list_models())
        refuse_options(options, _REFUSED)
        self.model_name, self.options = model, options
        self.net = self._create()
        info = self.net.feature_info
        strides = {i: info[i]["reduction"] for i in range(len(info))}
        last = {f"c{s.bit_length() - 1}": i for i, s in strides.items() if s.bit_count() == 1}  # of each stride
        specs = {name: FeatureSpec(info[i]["num_chs"], strides[i]) for name, i in last.items()}
        self.feature_specs = choose_maps(model, specs, out_features)
        self.num_maps = max(last[name] for name in self.feature_specs) + 1
        if tuple(info.out_indices) != tuple(range(self.num_maps)):  # made with too many maps, or too few
            self.net = self._create(out_indices=tuple(range(self.num_maps)))
        self.indices = {name: i for name, i in last.items() if i < self.num_maps}
        self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        self.freeze(frozen_stages, frozen_batch)

    def _create(self, **more: Any) -> Any:
        return _timm().create_model(self.model_name, features_only=True, **self.options, **more)

    def all_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) -> the maps of every stride up to the last of `feature_specs`."""
        maps = self.net(pixels)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return {name: maps[i] for name, i in self.indices.items()}

    def load_pretrained(self) -> str:
        """Download (or take from its cache) and load the weights that timm publishes; returns their name.

        A file of one's own in their place: the option pretrained_cfg_overlay={"file": PATH}.
        """
        trained = self._create(pretrained=True, out_indices=tuple(range(self.num_maps)))
        self.net.load_state_dict(trained.state_dict())
        tag = trained.pretrained_cfg.get("tag")
        return f"timm {self.model_name.partition('.')[0]}{'.' + tag if tag else ''}"

    def pretrained_pixels(self) -> dict[str, list[float]]:
        """`mean` and `std` (0..255, RGB) of the pixels that the published weights were trained on: model.pixels."""
        settings = self.net.pretrained_cfg
        return {key: [255 * value for value in settings[key]] for key in ("mean", "std")}


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("detres.integrations.timm needs the package timm: pip install timm") from error
    return timm

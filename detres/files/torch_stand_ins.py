"""What stands in torch checkpoints beside tensors, and what is built in its place.

Training scripts put log histories, configurations and argument lists next to the tensors. The classes listed here are
known to hold data only; they are not imported, their state is kept as data.
"""

from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any

from detres.files.inert import Allowance, Builder, Refused, foreign_class, numpy_stand_ins, reference
from detres.files.restricted_pickle import python_stand_ins

CONFIGS = (
    "addict.addict.Dict",
    "addict.Dict",
    "detectron2.config.config.CfgNode",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)
_OBJECTS = (
    "argparse.Namespace",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "detectron2.structures.boxes.BoxMode",
    "fvcore.common.history_buffer.HistoryBuffer",
    "fvcore.common.timer.Timer",
    "mmcv.utils.config.Config",
    "mmengine.config.config.Config",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Enum", "Float", "Integer", "Path", "String")),
    "torchvision.transforms.functional.InterpolationMode",
    "types.SimpleNamespace",
    "typing.Any",
)
_PATHS = tuple(
    f"pathlib.{module}{kind}"
    for module in ("", "_local.")
    for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
)
_NUMBERS = tuple(
    f"numpy.{kind}"
    for kind in ("bool_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "str_")
)


def torch_stand_ins(allowance: Allowance) -> dict[str, Any]:
    """All names that torch does not know by itself."""
    classes = {name: foreign_class(name) for name in _OBJECTS}
    configs = dict.fromkeys(CONFIGS, _Config)
    references = {name: reference(name) for name in _NUMBERS}
    texts = {name: Builder(name, lambda *parts: str(PurePosixPath(*map(_text, parts)))) for name in _PATHS}
    return {
        **python_stand_ins(allowance),
        **numpy_stand_ins(),
        **classes,
        **configs,
        **references,
        **texts,
        "builtins.getattr": Builder("builtins.getattr", _attribute),
        "torch.torch_version.TorchVersion": _Version,
    }


class _Config:
    """Made as a plain ordered dict, whatever attributes it has beside its items."""

    def __new__(cls, *arguments: Any) -> Any:
        if len(arguments) > 1 or not all(isinstance(items, dict | list) for items in arguments):
            raise Refused("holds a configuration that is put together wrongly")
        return OrderedDict(*arguments)


class _Version:
    """Made as a plain string."""

    def __new__(cls, text: Any = "") -> Any:
        return _text(text)


def _attribute(owner: Any, name: Any) -> str:
    """The name of a method that a log history lists; the method is not looked up."""
    return f"{getattr(owner, 'name', 'object')}.{_text(name)}"


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Refused(f"holds a {type(value).__name__}, expected text")
    return value

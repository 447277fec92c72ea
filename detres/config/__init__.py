"""Configuration: what a YAML file may say (the schema) and how it becomes one checked Config (the loader)."""

from detres.config.errors import ConfigError
from detres.config.loader import LoadedConfig, config_from_dict, config_to_dict, load_config
from detres.config.schema import Config
from detres.config.show import format_resolved

__all__ = [
    "Config",
    "ConfigError",
    "LoadedConfig",
    "config_from_dict",
    "config_to_dict",
    "format_resolved",
    "load_config",
]

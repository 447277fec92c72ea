"""The model zoo: published checkpoints that the key maps read, by name, and fetching them."""

from detres.weights.zoo.entry import Entry, Metric
from detres.weights.zoo.fetching import cache_folder, cached, fetch, place
from detres.weights.zoo.table import entries, find

__all__ = ["Entry", "Metric", "cache_folder", "cached", "entries", "fetch", "find", "place"]

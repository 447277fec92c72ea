"""Adapters: a detres backbone in other toolkits' detectors, and their backbones in ours. A module for each library."""

"""Adapters: a detres backbone in other toolkits' detectors, and their backbones in ours. One module for each library."""

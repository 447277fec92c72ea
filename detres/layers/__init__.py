"""Layers that several networks share: norms, non-maximum suppression, RoI pooling, pixel normalisation."""

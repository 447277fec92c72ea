"""Data sets, transforms, samplers and loaders."""

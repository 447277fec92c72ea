"""A stand-in for detectron2, which is not in the package registry: the interface of its backbones and configs."""

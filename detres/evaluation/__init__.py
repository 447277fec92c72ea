"""How good a model is: inference over a loader, COCO and VOC metrics, result files, pictures."""

"""Training: the loop, the optimizer and its schedule, checkpoints, and what a run writes about itself."""

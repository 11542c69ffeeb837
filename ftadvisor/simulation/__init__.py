"""The real training step, run on meta tensors, and what a GPU would have allocated for it."""

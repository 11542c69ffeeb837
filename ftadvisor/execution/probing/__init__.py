"""Short real steps on the hardware at hand: what it does at its best, and slices of a model."""

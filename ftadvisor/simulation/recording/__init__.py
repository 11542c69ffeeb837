"""A step's operations as they run, what they hold and compute, and the list of it replayed."""

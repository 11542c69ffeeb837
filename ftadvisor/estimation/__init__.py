"""Pure arithmetic on records: what a run allocates, how long it takes, what it costs."""

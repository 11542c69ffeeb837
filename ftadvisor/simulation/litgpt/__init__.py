"""litgpt's own program, written after it."""

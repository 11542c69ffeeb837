"""Scores predictions against measurements: the proof that the numbers are right."""

"""Coefficients and intervals from measurements: `python -m ftadvisor.calibration`."""

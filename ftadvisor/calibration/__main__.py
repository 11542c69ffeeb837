"""Refits `data/coefficients/` from `data/measurements/` and prints how well the fits do."""

from __future__ import annotations

import json
from dataclasses import asdict

from ftadvisor.calibration.cases import repository_cases
from ftadvisor.calibration.memory_fit import fit_memory
from ftadvisor.sources.data_files import data_dir


def main() -> None:
    """Write memory.json anew."""
    fit = fit_memory(repository_cases())
    content = {
        "ladder": asdict(fit.coefficients),
        "intervals": {kind: found._asdict() for kind, found in sorted(fit.intervals.items())},
        "left_out": fit.left_out,
    }
    path = data_dir() / "coefficients" / "memory.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

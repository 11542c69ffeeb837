"""`ftadvisor validate`: every row of a measurements file predicted, scored and held to bounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvisor.errors import UnknownNameError
from ftadvisor.schema.measurement import Measurement
from ftadvisor.sources.catalogue_checks import check_data
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.validation.bounds import Bound, check_bounds, check_simulated_bounds
from ftadvisor.validation.rows import (
    Predictor,
    Row,
    counts_for_memory,
    counts_for_time,
    ran,
    row_of,
)
from ftadvisor.validation.scores import Summary, summarize

GROUPS: dict[str, Callable[[Measurement], str]] = {
    "source": lambda m: m.source,
    "technique": lambda m: str(m.row["technique"]),
    "gpu": lambda m: m.gpu,
}


@dataclass(frozen=True, slots=True)
class Report:
    """Errors, coverage and verdicts of a file's rows."""

    rows: tuple[Row, ...]
    by: str
    bounds: tuple[Bound, ...]
    """Empty for a file of the user's own: the repository's bounds are for its own rows."""
    simulated: bool = False
    """Memory is the simulated step's; what it refuses is then said by source."""
    notes: tuple[str, ...] = ()
    """What was fitted for these rows alone."""

    @property
    def holds(self) -> bool:
        """Whether every stated bound holds."""
        return all(bound.holds for bound in self.bounds)

    def memory(self, rows: Iterable[Row] | None = None) -> Summary:
        """Memory errors of scored rows (grades A and B, known metric)."""
        chosen = [
            r for r in (self.rows if rows is None else rows) if counts_for_memory(r.measurement)
        ]
        return summarize((r.memory for r in chosen if r.memory), len(chosen))

    def time(self, rows: Iterable[Row] | None = None) -> Summary:
        """Errors of the seconds of a micro-step."""
        chosen = [r for r in rows or self.rows if counts_for_time(r.measurement)]
        return summarize((r.time for r in chosen if r.time), len(chosen))

    def groups(self, by: str) -> dict[str, list[Row]]:
        """The rows by source, technique or GPU."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[GROUPS[by](row.measurement)].append(row)
        return dict(sorted(found.items()))

    def verdicts(self) -> dict[str, int]:
        """How often runs that are known to have run, or not, are called otherwise."""
        oom = [r for r in self.rows if r.measurement.oom and r.verdict]
        done = [r for r in self.rows if ran(r.measurement) and r.verdict]
        return {
            "oom_rows": len(oom),
            "oom_called_fits": sum(r.verdict == "fits" for r in oom),
            "ran_rows": len(done),
            "ran_called_does_not_fit": sum(r.verdict == "does_not_fit" for r in done),
            "tight": sum(r.verdict == "tight" for r in (*oom, *done)),
        }

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `ftadvisor validate --json`."""
        groups = self.groups(self.by)
        key = f"by_{self.by}"
        memory = self.memory().as_dict() | {
            key: {name: self.memory(rows).as_dict() for name, rows in groups.items()}
        }
        time = self.time().as_dict() | {
            key: {name: self.time(rows).as_dict() for name, rows in groups.items()}
        }
        if self.by != "source":
            memory["by_source"] = {
                name: self.memory(rows).as_dict() for name, rows in self.groups("source").items()
            }
            time["by_source"] = {
                name: self.time(rows).as_dict() for name, rows in self.groups("source").items()
            }
        return {
            "memory": memory,
            "time": time,
            "verdict": self.verdicts(),
            "notes": list(self.notes),
            "bounds": [bound.as_dict() for bound in self.bounds],
            "rows": [row.as_dict() for row in self.rows],
        }


def validate(
    path: str | None = None, by: str | None = None, predict: Predictor | None = None
) -> Report:
    """Predict every row of a measurements file (default: the repository's own).

    `predict` says memory in the closed form's place: the simulated step. Raises UnknownNameError
    for a grouping that does not exist, DataFileError for rows that cannot be read, in that file or
    in any catalogue.
    """
    if by is not None and by not in GROUPS:
        raise UnknownNameError("grouping", by, GROUPS)
    check_data()
    rows = tuple(row_of(m, predict) for m in read_measurements(Path(path) if path else None))
    check = check_simulated_bounds if predict else check_bounds
    return Report(rows, by or "source", () if path else check(rows), predict is not None)

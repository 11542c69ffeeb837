"""`validate`: the closed form, or the simulated step, beside measurements."""

from __future__ import annotations

from collections.abc import Callable

from ftadvisor.api.simulating import prediction, simulated_step
from ftadvisor.calibration.cases import Case
from ftadvisor.estimation.prediction import MemoryPrediction, on_card
from ftadvisor.sources.models import model_config
from ftadvisor.validation import report
from ftadvisor.validation.report import Report


def validate(
    path: str | None = None,
    by: str | None = None,
    *,
    simulate: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Predict every row of a measurements file (default: the repository's own).

    `simulate`: memory by the simulated step; rows that cannot be simulated are not scored, and what
    it promises of the repository's rows is stated. It takes seconds a row. `progress` is called
    with the id of each row that is simulated. Raises UnknownNameError for a grouping that does not
    exist, DataFileError for rows that cannot be read, in that file or in any catalogue.
    """
    if not simulate:
        return report.validate(path, by)

    def predict(case: Case) -> MemoryPrediction:
        if progress is not None:
            progress(case.measurement.id)
        return simulated_case(case)

    return report.validate(path, by, predict)


def simulated_case(case: Case) -> MemoryPrediction:
    """The simulated memory of a measurement's run. Raises UnsupportedError where there is none."""
    found = case.situation
    config = model_config(case.measurement.model)
    gpu = case.gpu.id if case.gpu else None
    step = simulated_step(config, found.settings, found.trainer, gpu)
    memory = prediction(step, found.settings, found.trainer, None)
    return on_card(memory, case.gpu.usable_bytes) if case.gpu else memory

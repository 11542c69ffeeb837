"""`validate`: the closed form, or the simulated step, beside measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ftadvisor.api.estimator import memory_estimate
from ftadvisor.api.simulating import prediction, simulated_step
from ftadvisor.calibration.cases import Case
from ftadvisor.estimation.prediction import MemoryPrediction, on_card
from ftadvisor.schema.measurement import Measurement
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.coefficients import longest_batches
from ftadvisor.sources.models import model_config
from ftadvisor.validation import report
from ftadvisor.validation.report import Report
from ftadvisor.validation.rows import closed_form

LONGEST = "longest_sequence_tokens"


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

    found = report.validate(path, by, predict)
    return replace(found, notes=tuple(_fitted({row.measurement.source for row in found.rows})))


def _fitted(sources: set[str]) -> Iterator[str]:
    for source, batch in longest_batches().items():
        if source in sources:
            yield (
                f"{source}: the longest batch is simulated with {batch.tokens} tokens, fitted on "
                f"{batch.fitted_on}."
            )


def simulated_case(case: Case) -> MemoryPrediction:
    """The simulated memory of a measurement's run. Raises UnsupportedError where there is none."""
    trainer = case.situation.trainer
    settings = settings_for(case.measurement, case.situation.settings)
    gpu = case.gpu.id if case.gpu else None
    step = simulated_step(model_config(case.measurement.model), settings, trainer, gpu)
    closed = memory_estimate(closed_form(case))
    memory = prediction(step, settings, trainer, closed)
    return on_card(memory, case.gpu.usable_bytes) if case.gpu else memory


def settings_for(m: Measurement, settings: Settings) -> Settings:
    """A row's settings as they are simulated.

    Where a row's longest batch was inferred with another model, the simulation's own fit of it
    takes its place (data/coefficients/simulated.json, longest_batches).
    """
    own = longest_batches().get(m.source)
    if own is None or LONGEST not in (m.row.get("inferred") or {}):
        return settings
    return replace(settings, longest_length=float(own.tokens))

"""`run`: a plan, or options that are one, to a trained model and its report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from ftadvisor.api.calibrating import find_hardware
from ftadvisor.api.plan_files import estimate_on, options_of, read_plan
from ftadvisor.api.run_plans import planned
from ftadvisor.api.simulating import settings_of
from ftadvisor.errors import FtadvisorError
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.options import Options
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Event, Report
from ftadvisor.schema.run import RunOptions, RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.plans import PLAN_FILE, write_plan
from ftadvisor.sources.text_files import replace_text
from ftadvisor.sources.yaml_files import dump_yaml

if TYPE_CHECKING:
    from ftadvisor.execution import launching
    from ftadvisor.schema.preview import Preview


class PlanOptions(Options, RunOptions, total=False):
    """What a run takes without a plan."""

    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    global_batch_size: int
    beta: float
    teacher_model: str | os.PathLike[str]
    lmbda: float
    seed: int


def run(
    plan: Plan | str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    gpu: str | None = None,
    calibration: Calibration | None = None,
    **options: Unpack[PlanOptions],
) -> Report:
    """Train, and return what came of it; `report.json` of the output directory says the same.

    `plan` is a record, a file that `recommend` wrote, or one written by hand. Without it `model`,
    `technique` and `dataset` make the plan, with every setting of `estimate`; rules fill in the
    others. Without a `gpu` it trains on what is here; `calibration`: what is predicted of it, as in
    `estimate`. Needs the `run` extra.

    Several processes (`num_processes`, else the plan's num_gpus) are started by torchrun, one a
    GPU, or all on the CPU.

    Raises FtadvisorError for what cannot be run, before anything expensive starts.
    """
    named = {"model": model, "technique": technique, "objective": objective, "gpu": gpu}
    ready = _ready(
        plan, {**options, **{k: v for k, v in named.items() if v is not None}}, calibration
    )
    from ftadvisor.execution import launching

    if launching.is_launched(ready.settings) and not launching.is_worker():
        return _launched(ready, [] if calibration else ["--no-calibration"])
    from ftadvisor.execution.run import execute

    return execute(*ready)


def rehearse(
    plan: Plan | str | os.PathLike[str] | None = None,
    *,
    write: bool = False,
    calibration: Calibration | None = None,
    **options: Any,
) -> Rehearsal:
    """Everything that `run` checks before it loads a model, and what it would start.

    `write`: leave plan.yaml and accelerate.yaml in the output directory, for another launcher.
    Takes what `run` takes, and raises what it raises.
    """
    ready = _ready(plan, options, calibration)
    from ftadvisor.execution import launching
    from ftadvisor.execution.journal import Journal
    from ftadvisor.execution.run import check

    journal = Journal()
    place = Path(ready.run.output_dir)
    was_there = place.exists()
    device = check(*ready.checked, journal).device
    if write:
        _write(ready, gpu=not device.is_cpu)
    elif not was_there:
        place.rmdir()
    words = launching.words_of(place / PLAN_FILE, ready.run)
    command = launching.command_of(words, ready.settings)
    return Rehearsal(ready.plan, shlex.join(command), tuple(journal.events))


def preview(plan: Plan | str | os.PathLike[str] | None = None, **options: Any) -> Preview:
    """The first few examples of what `run` would train on, with what the loss counts.

    Takes what `run` takes; nothing is written, and no model is loaded. Raises FtadvisorError for
    data that cannot be used.
    """
    plan, settings = planned(plan, options)
    from ftadvisor.execution.preview import preview as previewed

    return previewed(plan, settings_of(plan.estimate), settings)


class Rehearsal(NamedTuple):
    """What a run would be."""

    plan: Plan
    command: str
    """What starts it, once plan.yaml lies in the output directory."""
    events: tuple[Event, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, as `run --dry-run --json` prints them."""
        events = [event._asdict() for event in self.events]
        return {"plan": self.plan.as_dict(), "command": self.command, "events": events}


class Ready(NamedTuple):
    """What `execute` takes."""

    plan: Plan
    settings: Settings
    run: RunSettings
    estimate_on: Callable[[str], Estimate | None]
    ways_to_fit: Callable[[str], list[str]]

    @property
    def checked(self) -> tuple[Plan, Settings, RunSettings, Callable[[str], Estimate | None]]:
        """What the checks take of it."""
        return self[:4]


def _ready(
    plan: Plan | str | os.PathLike[str] | None,
    options: dict[str, Any],
    calibration: Calibration | None,
) -> Ready:
    plan, of_run = planned(plan, dict(options), calibration)
    estimated = partial(estimate_on, plan=plan, calibration=calibration)
    ways = _ways_to_fit(plan, calibration)
    return Ready(plan, settings_of(plan.estimate), of_run, estimated, ways)


def _launched(ready: Ready, besides: list[str]) -> Report:
    """The report of a run in several processes, which this one waits for; where one of them runs
    out of memory all are started again with smaller micro-batches, from the last checkpoint on.

    Raises what they fail of before there is a report.
    """
    from ftadvisor.execution import launching
    from ftadvisor.execution.journal import Journal
    from ftadvisor.execution.resuming import stored_run
    from ftadvisor.execution.run import REPORT, check

    device = check(*ready.checked, Journal()).device
    run, place = ready.run, Path(ready.run.output_dir)
    names = (PLAN_FILE, launching.CONFIGURATION)
    own = [place / name for name in names if not (place / name).exists()]
    file = _write(ready, gpu=not device.is_cpu)
    report = place / REPORT
    ran_out: list[Event] = []
    while True:
        before = _written(report)
        failed: launching.ProcessError | None = None
        try:
            words = [*launching.words_of(file, run), *besides]
            launching.start(words, ready.settings.num_gpus, ran_out)
        except (FtadvisorError, KeyboardInterrupt) as error:
            failed = error if isinstance(error, launching.ProcessError) else None
            # One that is older is of the attempt that was continued.
            has_reported = _written(report) != before
            if failed and (again := failed.failed.again):
                ran_out.append(again)
                if has_reported:
                    _goes_on(report, file, again)
                run = replace(run, resume=bool(stored_run(place)))
                continue
            if not has_reported:
                _leave(place, own, failed)
                raise
        found = _reported(report, file)
        return _with_cause(found, failed) if failed else found


def _reported(file: Path, plan_file: Path) -> Report:
    return Report.of(json.loads(file.read_text(encoding="utf-8")), read_plan(plan_file))


def _goes_on(file: Path, plan_file: Path, again: Event) -> None:
    """Of an attempt that ran out of memory the next one finds why it ended, in the place of what
    the first process has noticed of it.
    """
    from ftadvisor.execution.run import write_files

    report = _reported(file, plan_file)
    events = report.events if report.status == "done" else report.events[:-1]
    write_files(replace(report, status="out_of_memory", events=(*events, again)))


def _leave(place: Path, own: list[Path], failed: launching.ProcessError | None) -> None:
    """The directory of a run that has not begun is free for the next one; one that has can go on,
    which is said.
    """
    from ftadvisor.execution.launching import ProcessError
    from ftadvisor.execution.resuming import resume_command, stored_run

    if not stored_run(place):
        for path in own:
            path.unlink(missing_ok=True)
    elif failed:
        ways = [resume_command(place), *failed.suggestions]
        raise ProcessError(failed.message, ways, failed.failed) from None


def _with_cause(report: Report, failed: launching.ProcessError) -> Report:
    """The report, which the first process has written, with what another one failed of."""
    from ftadvisor.execution.run import write_files

    rank, status, _ = failed.failed
    if not rank:
        return report
    step = report.events[-1].step if report.events else 0
    said = failed.message.rstrip(".")
    what = said if said.startswith("Process ") else f"process {rank}: {said}"
    event = Event("process", step, what)
    report = replace(report, status=status or report.status, events=(*report.events, event))
    write_files(report)
    return report


def _written(file: Path) -> int:
    """When; 0: never."""
    return file.stat().st_mtime_ns if file.exists() else 0


def _write(ready: Ready, *, gpu: bool) -> Path:
    """plan.yaml, and the configuration with which accelerate's launcher runs it."""
    from ftadvisor.execution import launching

    place = Path(ready.run.output_dir)
    configuration = launching.accelerate_configuration(ready.settings, gpu=gpu)
    write_plan(ready.plan, place / PLAN_FILE)
    replace_text(place / launching.CONFIGURATION, dump_yaml(configuration))
    return place / PLAN_FILE


def _ways_to_fit(plan: Plan, calibration: Calibration | None) -> Callable[[str], list[str]]:
    """What says for the GPU that a driver calls by a name which changes make the run smaller."""

    def changes(driver_name: str) -> list[str]:
        from ftadvisor.api.remedies import ways_to_fit

        options = options_of(plan)
        try:
            found = ways_to_fit(
                plan.model, gpu=find_hardware(driver_name, calibration).gpu.id,
                technique=plan.technique, objective=plan.objective, calibration=calibration,
                **options,
            )  # fmt: skip
        except FtadvisorError:
            return []
        least = plan.estimate.memory.device_bytes
        return [remedy.change for remedy in found if remedy.device_bytes < least]

    return changes

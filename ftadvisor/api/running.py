"""`run`: a plan, or options that are one, to a trained model and its report."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from ftadvisor.api.plan_files import complete_plan, estimate_plan, read_plan
from ftadvisor.api.simulating import settings_of
from ftadvisor.errors import FtadvisorError, InvalidSettingError, near_misses, quoted
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.options import Options
from ftadvisor.schema.plan import Plan, PlanHardware
from ftadvisor.schema.report import Event, Report
from ftadvisor.schema.run import RunOptions, RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gpus import match_gpu
from ftadvisor.sources.plans import PlanDraft, draft_of, plan_parts, read_draft, write_plan
from ftadvisor.sources.text_files import replace_text
from ftadvisor.sources.training_settings import PLAN_SETTINGS
from ftadvisor.sources.yaml_files import dump_yaml

OPTIONS = "the options"
"""What errors call a plan that no file holds."""
PLAN = "plan.yaml"
ELSEWHERE = ("num_gpus", "reference_model", "num_tokens")
_RUN = tuple(RunOptions.__annotations__)


class PlanOptions(Options, RunOptions, total=False):
    """What a run takes without a plan."""

    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    global_batch_size: int
    beta: float
    seed: int


def run(
    plan: Plan | str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    gpu: str | None = None,
    **options: Unpack[PlanOptions],
) -> Report:
    """Train, and return what came of it; `report.json` of the output directory says the same.

    `plan` is a record, a file that `recommend` wrote, or one written by hand. Without it `model`,
    `technique` and `dataset` make the plan, with every setting of `estimate`; rules fill in the
    others. Without a `gpu` it trains on what is here. Needs the `run` extra.

    Several processes (`num_processes`, else the plan's num_gpus) are started by torchrun, one a
    GPU, or all on the CPU.

    Raises FtadvisorError for what cannot be run, before anything expensive starts.
    """
    named = {"model": model, "technique": technique, "objective": objective, "gpu": gpu}
    ready = _ready(plan, {**options, **{k: v for k, v in named.items() if v is not None}})
    from ftadvisor.execution import launching

    if ready.plan.hardware.num_gpus > 1 and not launching.is_worker():
        return _launched(ready)
    from ftadvisor.execution.run import execute

    return execute(*ready)


def rehearse(
    plan: Plan | str | os.PathLike[str] | None = None, *, write: bool = False, **options: Any
) -> Rehearsal:
    """Everything that `run` checks before it loads a model, and what it would start.

    `write`: leave plan.yaml and accelerate.yaml in the output directory, for another launcher.
    Takes what `run` takes, and raises what it raises.
    """
    ready = _ready(plan, options)
    from ftadvisor.execution import launching
    from ftadvisor.execution.journal import Journal
    from ftadvisor.execution.run import checked

    journal = Journal()
    place = Path(ready.run.output_dir)
    was_there = place.exists()
    _, device = checked(*ready, journal)
    file = place / PLAN
    if write:
        _write(ready, gpu=not device.is_cpu)
    elif not was_there:
        place.rmdir()
    command = launching.command_of(launching.words_of(file, ready.run), ready.settings.num_gpus)
    return Rehearsal(ready.plan, shlex.join(command), tuple(journal.events))


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


def _launched(ready: Ready) -> Report:
    """The report of a run in several processes, which this one waits for."""
    from ftadvisor.execution import launching
    from ftadvisor.execution.journal import Journal
    from ftadvisor.execution.run import REPORT, checked

    _, device = checked(*ready, Journal())
    file = _write(ready, gpu=not device.is_cpu)
    launching.start(launching.words_of(file, ready.run), ready.settings.num_gpus)
    content = json.loads((file.parent / REPORT).read_text(encoding="utf-8"))
    return Report.of(content, read_plan(file))


def _write(ready: Ready, *, gpu: bool) -> Path:
    """plan.yaml, and the configuration with which accelerate's launcher runs it."""
    from ftadvisor.execution import launching

    place = Path(ready.run.output_dir)
    configuration = launching.accelerate_configuration(ready.settings, gpu=gpu)
    write_plan(ready.plan, place / PLAN)
    replace_text(place / launching.CONFIGURATION, dump_yaml(configuration))
    return place / PLAN


def _ready(plan: Plan | str | os.PathLike[str] | None, options: dict[str, Any]) -> Ready:
    """The plan and how it is run, complete and checked as far as no data are read."""
    given = dict(options)
    of_run = {name: given.pop(name) for name in _RUN if name in given}
    processes = of_run.pop("num_processes", None)
    if plan is not None and given:
        name = next(iter(given))
        raise InvalidSettingError(
            f"{name} and a plan both say what is trained.",
            [f"{name} in the plan", "no plan"],
        )
    if not isinstance(plan, Plan):
        draft = read_draft(plan) if plan is not None else _draft(given)
        plan = complete_plan(_with_data(_with_processes(draft, processes)))
    elif processes:
        plan = complete_plan(_with_processes(draft_of("the plan", plan_parts(plan)), processes))
    return Ready(plan, settings_of(plan.estimate), _run_settings(plan, of_run), _estimate_on(plan))


def _with_processes(draft: PlanDraft, processes: int | None) -> PlanDraft:
    """The draft for so many processes, its global batch as it was.

    Raises InvalidSettingError where the batch cannot be divided by them.
    """
    if processes is None or processes == draft.hardware.num_gpus:
        return draft
    if processes < 1:
        raise InvalidSettingError.of("num_processes", processes, "be a whole number from 1 on")
    settings = dict(draft.settings)
    if processes == 1 or settings.get("strategy") == "none":
        settings.pop("strategy", None)
    if {"micro_batch_size", "gradient_accumulation_steps"} <= settings.keys():
        micro, steps = settings["micro_batch_size"], settings["gradient_accumulation_steps"]
        rows = micro * steps * draft.hardware.num_gpus
        if rows % processes:
            ways = [n for n in range(2, rows + 1) if rows % n == 0][:4] or [1]
            raise InvalidSettingError(
                f"num_processes {processes}: the plan's batch of {rows} cannot be divided by it.",
                [f"--num-processes {n}" for n in ways],
            )
        micro = math.gcd(micro, rows // processes)
        settings["micro_batch_size"] = micro
        settings["gradient_accumulation_steps"] = rows // processes // micro
    hardware = replace(draft.hardware, num_gpus=processes)
    return replace(draft, hardware=hardware, settings=settings, estimate=None)


def _draft(given: dict[str, Any]) -> PlanDraft:
    """The options as a plan file would say them."""
    for name, example in (("model", "--model llama3.2-1b"), ("dataset", "--dataset train.jsonl")):
        if name not in given:
            raise InvalidSettingError(f"{name} is missing.", [example, "a plan file"])
    settings = {k: v for k, v in given.items() if k in PLAN_SETTINGS}
    known = {"model", "technique", "objective", "gpu", "dataset", "seed", *ELSEWHERE}
    for name in given.keys() - known - settings.keys():
        raise InvalidSettingError(
            f"{quoted(name)} is no option of run.", near_misses(name, [*PLAN_SETTINGS, *_RUN])
        )
    content: dict[str, Any] = {
        "model": given["model"],
        "technique": given.get("technique", "lora"),
        "objective": given.get("objective"),
        "dataset": str(given["dataset"]),
        "hardware": {"gpu": given.get("gpu"), "num_gpus": given.get("num_gpus", 1)},
        "settings": settings,
        "seed": given.get("seed", 0),
    }
    return draft_of(OPTIONS, content)


def _with_data(draft: PlanDraft) -> PlanDraft:
    """The draft with what its dataset is like, where it does not say and the file is here."""
    data = draft.dataset
    if data is None or draft.workload is not None:
        return draft
    # The readers cost a start-up that only a dataset should pay.
    from ftadvisor.sources.datasets import first_format, read_workload

    path = Path(data.path).expanduser()
    epochs = float(draft.settings.get("num_train_epochs", 1.0))
    workload = read_workload(path, epochs)
    found = data.format or first_format(path)
    return replace(draft, workload=workload, dataset=replace(data, format=found))


def _run_settings(plan: Plan, given: dict[str, Any]) -> RunSettings:
    """How it is run, each value checked alone."""
    values = dict(given)
    name = plan.model.rstrip("/").rpartition("/")[2]
    values["output_dir"] = os.fspath(values.get("output_dir", f"{name}-{plan.technique}"))
    for name in ("max_steps", "eval_steps", "save_steps"):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InvalidSettingError.of(name, value, "be a whole number from 1 on")
    share = values.get("eval_share", 0.0)
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise InvalidSettingError.of("eval_share", share, "be a number from 0 to below 1")
    if values.get("eval_dataset") is not None:
        values["eval_dataset"] = os.fspath(values["eval_dataset"])
    reporters: list[str] = values.get("report_to", [])
    values["report_to"] = tuple(reporters)
    return RunSettings(**values)


def _estimate_on(plan: Plan) -> Callable[[str], Estimate | None]:
    """What estimates the plan for the GPU that a driver calls by a name; None: not known."""

    def estimated(driver_name: str) -> Estimate | None:
        try:
            gpu = match_gpu(driver_name).gpu.id
        except FtadvisorError:
            return None
        here = PlanHardware(gpu=gpu, num_gpus=plan.hardware.num_gpus)
        return estimate_plan(replace(plan, hardware=here))

    return estimated

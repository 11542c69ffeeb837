"""The plan of a run: a file's, or the one that options make; complete, with how it is run."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftadvisor.api.plan_files import complete_plan
from ftadvisor.configuration.applicable import TAUGHT
from ftadvisor.errors import InvalidSettingError, near_misses, quoted
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.run import RunOptions, RunSettings
from ftadvisor.sources.plans import PLAN_FILE, PlanDraft, draft_of, plan_parts, read_draft
from ftadvisor.sources.training_settings import PLAN_SETTINGS

OPTIONS = "the options"
"""What errors call a plan that no file holds."""
ELSEWHERE = ("num_gpus", "reference_model", "num_tokens")
_RUN = tuple(RunOptions.__annotations__)


def planned(
    plan: Plan | str | os.PathLike[str] | None,
    given: dict[str, Any],
    calibration: Calibration | None = None,
) -> tuple[Plan, RunSettings]:
    """The plan, complete, and how it is run. Raises FtadvisorError."""
    of_run = {name: given.pop(name) for name in _RUN if name in given}
    if "teacher_model" in given:
        given["teacher_model"] = os.fspath(given["teacher_model"])
    # A recommended plan says that there is a teacher, and not which one.
    teacher = given.pop("teacher_model", None) if plan is not None else None
    of_run, plan = _continued(of_run, plan, given)
    processes = of_run.pop("num_processes", None)
    # What a reward model has learnt is people's judgement.
    use_case = "alignment" if "reward_model" in of_run else None
    whole = plan_of(plan, given, processes=processes, use_case=use_case, calibration=calibration)
    plan = _with_teacher(whole, teacher)
    return plan, _run_settings(plan, of_run)


def _continued(
    of_run: dict[str, Any], plan: Plan | str | os.PathLike[str] | None, given: dict[str, Any]
) -> tuple[dict[str, Any], Plan | str | os.PathLike[str] | None]:
    """With `resume` and nothing else the plan is the output directory's, as are the settings of
    the run that are not given anew.
    """
    if not of_run.get("resume") or plan is not None or given:
        return of_run, plan
    if "output_dir" not in of_run:
        raise InvalidSettingError(
            "resume says nothing of what is continued.", ["--resume --output-dir DIR"]
        )
    from ftadvisor.execution.resuming import stored_run

    place = Path(of_run["output_dir"]).expanduser()
    return {**stored_run(place), **of_run}, place / PLAN_FILE


def plan_of(
    plan: Plan | str | os.PathLike[str] | None,
    given: dict[str, Any],
    *,
    needs_data: bool = True,
    processes: int | None = None,
    use_case: str | None = None,
    calibration: Calibration | None = None,
) -> Plan:
    """The plan that a file or options say, complete; not both. `processes`: instead of its own."""
    if plan is not None and given:
        name = next(iter(given))
        raise InvalidSettingError(
            f"{name} and a plan both say what is trained.",
            [f"{name} in the plan", "no plan"],
        )
    if not isinstance(plan, Plan):
        draft = read_draft(plan) if plan is not None else _draft(given, needs_data)
        draft = replace(draft, use_case=use_case)
        return complete_plan(_with_data(_with_processes(draft, processes)), calibration)
    if processes is None:
        return plan
    # As its file would have it: lists where a record has tuples.
    content = json.loads(json.dumps(plan_parts(plan)))
    return complete_plan(_with_processes(draft_of("the plan", content), processes), calibration)


def _draft(given: dict[str, Any], needs_data: bool) -> PlanDraft:
    """The options as a plan file would say them."""
    for name, example in (("model", "--model llama3.2-1b"), ("dataset", "--dataset train.jsonl")):
        if name not in given and (needs_data or name == "model"):
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
        "dataset": str(given["dataset"]) if "dataset" in given else None,
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


def _with_teacher(plan: Plan, teacher: str | None) -> Plan:
    """The plan with its teacher, where it names no other."""
    if teacher is None:
        return plan
    named = plan.settings.get("teacher_model", teacher)
    if named != teacher:
        raise InvalidSettingError(
            f"teacher_model {quoted(teacher)}: the plan names another, {quoted(named)}.",
            [f"teacher_model: {teacher} in the plan", "leave --teacher-model out"],
        )
    if plan.objective not in TAUGHT:
        raise InvalidSettingError(
            f"teacher_model {quoted(teacher)} has no effect with objective {plan.objective}: it"
            f" belongs to {', '.join(TAUGHT)}.",
            ["leave it out"],
        )
    return replace(plan, settings={**plan.settings, "teacher_model": teacher})


def _run_settings(plan: Plan, given: dict[str, Any]) -> RunSettings:
    """How it is run, each value checked alone."""
    values = dict(given)
    name = plan.model.rstrip("/").rpartition("/")[2]
    place = Path(values.get("output_dir", f"{name}-{plan.technique}"))
    # As of every other path: a shell leaves the ~ of --output-dir=~/out as it is.
    values["output_dir"] = str(place.expanduser())
    for name, least in (("max_steps", 1), ("eval_steps", 1), ("save_steps", 0)):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or value < least):
            raise InvalidSettingError.of(name, value, f"be a whole number from {least} on")
    share = values.get("eval_share", 0.0)
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise InvalidSettingError.of("eval_share", share, "be a number from 0 to below 1")
    answers = values.get("eval_answers", 0)
    if not isinstance(answers, int) or answers < 0:
        raise InvalidSettingError.of("eval_answers", answers, "be a whole number from 0 on")
    for name in ("eval_dataset", "reward_model"):
        if values.get(name) is not None:
            values[name] = os.fspath(values[name])
    reporters: list[str] | str = values.get("report_to", [])
    values["report_to"] = (reporters,) if isinstance(reporters, str) else tuple(reporters)
    return RunSettings(**values)

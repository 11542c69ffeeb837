"""`run`: a plan, or options that are one, to a trained model and its report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ftadvisor.api.plan_files import complete_plan, estimate_plan, options_of
from ftadvisor.api.remedies import ways_to_fit
from ftadvisor.api.simulating import settings_of
from ftadvisor.configuration.applicable import TAUGHT
from ftadvisor.errors import FtadvisorError, InvalidSettingError, near_misses, quoted
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.options import Options
from ftadvisor.schema.plan import Plan, PlanHardware
from ftadvisor.schema.preview import Preview
from ftadvisor.schema.report import Report
from ftadvisor.schema.run import RunOptions, RunSettings
from ftadvisor.sources.gpus import match_gpu
from ftadvisor.sources.plans import PlanDraft, draft_of, read_draft
from ftadvisor.sources.training_settings import PLAN_SETTINGS

OPTIONS = "the options"
"""What errors call a plan that no file holds."""
PLAN_FILE = "plan.yaml"
"""Of an output directory."""
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
    **options: Unpack[PlanOptions],
) -> Report:
    """Train, and return what came of it; `report.json` of the output directory says the same.

    `plan` is a record, a file that `recommend` wrote, or one written by hand. Without it `model`,
    `technique` and `dataset` make the plan, with every setting of `estimate`; rules fill in the
    others. Without a `gpu` it trains on what is here. Needs the `run` extra.

    Raises FtadvisorError for what cannot be run, before anything expensive starts.
    """
    given: dict[str, Any] = dict(options)
    named = {"model": model, "technique": technique, "objective": objective, "gpu": gpu}
    given |= {name: value for name, value in named.items() if value is not None}
    plan, settings = planned(plan, given)
    from ftadvisor.execution.run import execute

    return execute(
        plan, settings_of(plan.estimate), settings, _estimate_on(plan), _ways_to_fit(plan)
    )


def preview(plan: Plan | str | os.PathLike[str] | None = None, **options: Any) -> Preview:
    """The first few examples of what `run` would train on, with what the loss counts.

    Takes what `run` takes; nothing is written, and no model is loaded. Raises FtadvisorError for
    data that cannot be used.
    """
    plan, settings = planned(plan, options)
    from ftadvisor.execution.preview import preview as previewed

    return previewed(plan, settings_of(plan.estimate), settings)


def planned(
    plan: Plan | str | os.PathLike[str] | None, given: dict[str, Any]
) -> tuple[Plan, RunSettings]:
    """The plan, complete, and how it is run. Raises FtadvisorError."""
    of_run = {name: given.pop(name) for name in _RUN if name in given}
    if "teacher_model" in given:
        given["teacher_model"] = os.fspath(given["teacher_model"])
    # A recommended plan says that there is a teacher, and not which one.
    teacher = given.pop("teacher_model", None) if plan is not None else None
    of_run, plan = _continued(of_run, plan, given)
    plan = _with_teacher(plan_of(plan, given), teacher)
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
    plan: Plan | str | os.PathLike[str] | None, given: dict[str, Any], *, needs_data: bool = True
) -> Plan:
    """The plan that a file or options say, complete; not both."""
    if plan is not None and given:
        name = next(iter(given))
        raise InvalidSettingError(
            f"{name} and a plan both say what is trained.",
            [f"{name} in the plan", "no plan"],
        )
    if not isinstance(plan, Plan):
        draft = read_draft(plan) if plan is not None else _draft(given, needs_data)
        plan = complete_plan(_with_data(draft))
    return plan


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
    values["output_dir"] = os.fspath(values.get("output_dir", f"{name}-{plan.technique}"))
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


def _ways_to_fit(plan: Plan) -> Callable[[str], list[str]]:
    """What says for the GPU that a driver calls by a name which changes make the run smaller."""

    def changes(driver_name: str) -> list[str]:
        options = options_of(plan)
        try:
            found = ways_to_fit(
                plan.model, gpu=match_gpu(driver_name).gpu.id, technique=plan.technique,
                objective=plan.objective, **options,
            )  # fmt: skip
        except FtadvisorError:
            return []
        least = plan.estimate.memory.device_bytes
        return [remedy.change for remedy in found if remedy.device_bytes < least]

    return changes

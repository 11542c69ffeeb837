"""Plans from files: names looked up, what is missing filled in, what excludes each other refused.

A plan may be written by hand, with no more than a model, a technique and a dataset. The dataset
itself is not read here: it may be large, or on another machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ftadvisor.advice.hyperparameters import OF_THE_ESTIMATE, Hyperparameters, hyperparameters
from ftadvisor.advice.question import Question
from ftadvisor.api.calibrating import find_hardware, is_unmeasured
from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.plans import settings_of
from ftadvisor.api.situation import question_of, situation_of
from ftadvisor.configuration.applicable import Run, applicable, check_applicable
from ftadvisor.configuration.effects import check_subject, check_technique, of_technique
from ftadvisor.configuration.objectives import GROUPED
from ftadvisor.configuration.options import check_options
from ftadvisor.errors import (
    DataFileError,
    FtadvisorError,
    InvalidSettingError,
    ModelUnavailableError,
    UnknownNameError,
)
from ftadvisor.estimation.calibrated import CPU, is_cpu
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.plan import Plan, PlanHardware
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.models import find_model
from ftadvisor.sources.plans import PlanDraft, read_draft
from ftadvisor.sources.techniques import find_task, find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, TRAINERS_OF_OBJECTIVES, find_trainer
from ftadvisor.sources.training_settings import PLAN_SETTINGS
from ftadvisor.sources.workloads import reference_workload

COMPLETE = frozenset(
    {
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs",
        "micro_batch_size", "gradient_accumulation_steps",
    }
)  # fmt: skip
"""A plan that says all of these was finished; rules fill in what is missing in any other."""
EDITED = "estimated again: the plan's settings are not those that its estimate was made for"


def read_plan(path: str | os.PathLike[str], calibration: Calibration | None = None) -> Plan:
    """The plan of a file, complete. Its estimate is made again where its settings were edited.

    Raises DataFileError (file, field, what to write), InvalidSettingError where there is no file.
    """
    return complete_plan(read_draft(path), calibration)


def complete_plan(draft: PlanDraft, calibration: Calibration | None = None) -> Plan:
    """The plan of a draft, with what the rules say for all that it leaves open.

    Raises DataFileError (file, field, what to write).
    """
    technique, objective = _task(draft)
    with located(draft.file, "model"):
        find_model(draft.model)
    with located(draft.file, "hardware.gpu"):
        _hardware(draft.hardware, calibration)
    given = _checked(draft)
    with located(draft.file, "objective"):
        question = _question(draft, technique, objective, given, calibration)
    with located(draft.file, "settings"):
        return _plan(draft, technique, question, given, calibration)


def estimate_plan(plan: Plan, calibration: Calibration | None = None) -> Estimate:
    """The estimate of a plan's settings, for the workload that it states.

    Raises InvalidSettingError for settings that exclude each other.
    """
    return estimate_subject(plan_subject(plan, calibration), find_technique(plan.technique))


def estimate_on(device: str, plan: Plan, calibration: Calibration | None = None) -> Estimate | None:
    """The plan's estimate for hardware at hand, by the name that its driver has for it, or `cpu`.

    None: nothing is known of it.
    """
    count = plan.hardware.num_gpus
    if is_unmeasured(device, count, calibration):
        return None
    try:
        gpu = find_hardware(device, calibration).gpu.id
    except FtadvisorError:
        return None
    here = replace(plan, hardware=PlanHardware(gpu=gpu, num_gpus=count))
    return estimate_plan(here, calibration)


def _hardware(of: PlanHardware, calibration: Calibration | None) -> Gpu | None:
    """None: none is named, or a processor that was not measured."""
    if of.gpu is None or is_unmeasured(of.gpu, of.num_gpus, calibration):
        return None
    return find_hardware(of.gpu, calibration).gpu


def options_of(plan: Plan) -> dict[str, Any]:
    """A plan's settings as options of `estimate`; the workload is apart."""
    found = {k: v for k, v in plan.settings.items() if k in OF_THE_ESTIMATE}
    found |= {"num_gpus": plan.hardware.num_gpus}
    if plan.objective in GROUPED:
        found["reference_model"] = plan.settings.get("beta", 0.0) > 0
    return found


def plan_subject(plan: Plan, calibration: Calibration | None = None) -> Subject:
    """What `estimate` asks of a plan."""
    model = find_model(plan.model)
    options = options_of(plan)
    for name in ("dataset", "num_tokens", "num_train_epochs"):
        options.pop(name, None)
    usual = TRAINERS_OF_OBJECTIVES.get(plan.objective, DEFAULT_TRAINER)
    gpu = _hardware(plan.hardware, calibration)
    return Subject(
        name=plan.model,
        model=model.spec,
        objective=plan.objective,
        gpu=gpu,
        trainer=find_trainer(options.pop("trainer", usual), on_cpu=is_cpu(gpu)),
        workload=plan.workload,
        options=options,
        assumptions=(),
        calibration=calibration,
    )


def _task(draft: PlanDraft) -> tuple[Technique, str | None]:
    try:
        technique, objective = find_task(draft.technique, draft.objective)
    except UnknownNameError as error:
        raise _in_file(draft.file, error.noun, error) from None
    except FtadvisorError as error:
        raise _in_file(draft.file, "objective", error) from None
    if technique is None:
        what = f"names the objective {objective}, no technique"
        raise DataFileError(draft.file, None, "technique", what, "lora")
    return find_technique(technique), objective


def _checked(draft: PlanDraft) -> dict[str, Any]:
    """The settings that memory and time depend on, each value alone; the trainer's own as read."""
    found: dict[str, Any] = {}
    for name, value in draft.settings.items():
        if name not in OF_THE_ESTIMATE or name == "num_train_epochs":
            found[name] = value
            continue
        with located(draft.file, f"settings.{name}"):
            found |= check_options({name: value})
    return found


def _question(
    draft: PlanDraft,
    technique: Technique,
    objective: str | None,
    given: dict[str, Any],
    calibration: Calibration | None,
) -> Question:
    wishes: dict[str, Any] = {
        k: v for k, v in given.items() if k in OF_THE_ESTIMATE or k == "learning_rate"
    }
    if draft.dataset is not None and draft.dataset.format is not None:
        wishes["data_format"] = draft.dataset.format
    if draft.workload is not None:
        wishes["num_examples"] = draft.workload.num_examples
    if draft.use_case is not None:
        wishes["use_case"] = draft.use_case
    wishes["num_gpus"] = draft.hardware.num_gpus
    situation = situation_of(None, draft.hardware.gpu, technique.id, objective, wishes, calibration)
    workload = draft.workload or reference_workload(1.0)
    return question_of(replace(situation, workload=workload), draft.model)


def _plan(
    draft: PlanDraft,
    technique: Technique,
    question: Question,
    given: dict[str, Any],
    calibration: Calibration | None,
) -> Plan:
    run = Run(technique, question.objective, question.model.family)
    own = {k: v for k, v in given.items() if k in OF_THE_ESTIMATE}
    check_subject(own, question.model, question.objective)
    check_technique(own, technique)
    check_applicable(given, run)
    hyper = hyperparameters(question, technique.id, adapts=not technique.trains_base)
    settings = given if given.keys() >= COMPLETE else _completed(draft, given, hyper, run)
    _check_batch(draft, settings)
    epochs = float(settings["num_train_epochs"])
    plan = Plan(
        model=question.name,
        dataset=draft.dataset,
        hardware=draft.hardware,
        technique=technique.id,
        objective=question.objective,
        workload=replace(question.workload, num_train_epochs=epochs),
        settings={"max_length": question.max_length, **settings},
        seed=draft.seed,
        estimate=draft.estimate,  # pyright: ignore[reportArgumentType] made below
    )
    subject = plan_subject(plan, calibration)
    made = estimate_subject(subject, technique, _said(draft))
    training = {k: v for k, v in plan.settings.items() if k not in OF_THE_ESTIMATE}
    training["num_train_epochs"] = epochs
    return replace(
        plan,
        technique=made.technique,
        hardware=PlanHardware(gpu=made.gpu or draft.hardware.gpu, num_gpus=made.num_gpus),
        settings=settings_of(subject, made, training, given),
        estimate=_estimate(draft.estimate, made),
    )


def _said(draft: PlanDraft) -> tuple[str, ...]:
    """What is assumed of the data where the plan does not say."""
    if draft.workload is not None or draft.hardware.gpu is None:
        return ()
    name = reference_workload().name
    return (f"time and cost are for {name}: the plan says of no workload how large it is",)


def _estimate(written: Estimate | None, made: Estimate) -> Estimate:
    """What the plan was written with, as long as it is about these settings."""
    if written is None:
        return made
    for name in ("model", "gpu", "num_gpus", "technique", "objective", "trainer", "settings"):
        # Where its processor was not measured, what is written still knows more.
        unknown = name == "gpu" and made.gpu is None and written.gpu == CPU
        if getattr(written, name) != getattr(made, name) and not unknown:
            return replace(made, assumptions=(EDITED, *made.assumptions))
    return written


def _completed(
    draft: PlanDraft, given: dict[str, Any], hyper: Hyperparameters, run: Run
) -> dict[str, Any]:
    """The settings with what the rules say for all that is missing."""
    usual = applicable(of_technique(hyper.options, run.technique), run)
    found = {**usual, **hyper.training_only, **given}
    if run.objective not in GROUPED:
        found.pop("reference_model", None)
    gpus = draft.hardware.num_gpus
    batch = int(given.get("global_batch_size", hyper.global_batch_size))
    micro, steps = given.get("micro_batch_size"), given.get("gradient_accumulation_steps")
    if micro is None:
        # The shortest micro-batch that there is fits where any does.
        micro = max(1, batch // (gpus * steps)) if steps else 2 if run.objective == "kto" else 1
    found["micro_batch_size"] = micro
    found["gradient_accumulation_steps"] = steps or max(1, round(batch / (micro * gpus)))
    if "global_batch_size" not in given:
        found.pop("global_batch_size", None)
    found.pop("reference_model", None)
    return applicable(found, run)


def _check_batch(draft: PlanDraft, settings: dict[str, Any]) -> None:
    """Raise DataFileError where a global batch was stated that its parts do not make."""
    stated = settings.get("global_batch_size")
    micro, steps = settings["micro_batch_size"], settings["gradient_accumulation_steps"]
    made = micro * steps * draft.hardware.num_gpus
    if stated is not None and stated != made:
        raise DataFileError(
            draft.file, None, "settings.global_batch_size",
            f"is {stated}, but micro_batch_size {micro} x gradient_accumulation_steps {steps} x"
            f" num_gpus {draft.hardware.num_gpus} is {made}", f"global_batch_size: {made}",
        )  # fmt: skip


@contextmanager
def located(file: str, field: str) -> Generator[None]:
    """Errors of what a file says become errors of the file."""
    try:
        yield
    except (DataFileError, ModelUnavailableError):
        raise
    except FtadvisorError as error:
        raise _in_file(file, field, error) from None


def _in_file(file: str, field: str, error: FtadvisorError) -> DataFileError:
    word = error.message.partition(" ")[0]
    if field == "settings" and isinstance(error, InvalidSettingError):
        if word in PLAN_SETTINGS:
            field = f"settings.{word}"
        elif word in ("technique", "objective"):
            field = word
    message = error.message.replace(" (`ftadvisor estimate --help` shows all)", "")
    write = " or ".join(_as_written(s) for s in error.suggestions)
    return DataFileError(file, None, field, message.rstrip("."), write)


def _as_written(suggestion: str) -> str:
    """`--lora-r 8` as a plan has it: `lora_r: 8`."""
    parts = re.findall(r"--([a-z-]+)((?: (?!--)\S+)*)", suggestion)
    if not parts:
        return suggestion
    rows = [
        f"{name.removeprefix('no-').replace('-', '_')}:"
        f" {'false' if name.startswith('no-') else value.strip() or 'true'}"
        for name, value in parts
    ]
    return ", ".join(rows)

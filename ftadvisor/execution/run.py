"""The order of a run: check, data, tokenizer, model, adapter, trainer, evaluate, train, save."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import preflight, stack
from ftadvisor.execution.adapting import adapt, set_adapter_dtype
from ftadvisor.execution.arguments import total_steps
from ftadvisor.execution.device import Device, find_device
from ftadvisor.execution.evaluation.comparison import Measured, compared, measure, side_by_side
from ftadvisor.execution.examples import check_objective, read_examples
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.loading import load_model
from ftadvisor.execution.saving import save_model
from ftadvisor.execution.tokenizing import load_tokenizer
from ftadvisor.execution.trainers import BUILDERS
from ftadvisor.execution.training import Training
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Report
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.plans import write_plan
from ftadvisor.sources.text_files import replace_text

LOG, PLAN, REPORT = "log.jsonl", "plan.yaml", "report.json"
PAGE, CARD = "report.html", "README.md"
LIBRARIES = (
    "ftadvisor", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets",
    "tokenizers", "safetensors",
)  # fmt: skip


EstimateOn = Callable[[str], Estimate | None]


def execute(plan: Plan, settings: Settings, run: RunSettings, estimate_on: EstimateOn) -> Report:
    """Train what the plan says; the output directory holds everything that came of it.

    Raises FtadvisorError before anything expensive starts for what cannot be run.
    """
    journal = Journal()
    of = prepare(plan, settings, run, estimate_on, journal)
    trainer = BUILDERS[plan.objective](of)
    # It prints each row that is logged: log.jsonl has them, and standard output is the report's.
    trainer.remove_callback(stack.transformers.PrinterCallback)
    set_adapter_dtype(trainer.model, settings)
    before = measure(trainer, of, base=True)
    trainer.train()
    after = Measured({}, [], [])
    if journal.status != "diverged":
        save_model(trainer, of.tokenizer, Path(run.output_dir))
        after = measure(trainer, of, base=False)
    report = report_of(of, before, after)
    write_report(report)
    return report


def write_report(report: Report) -> None:
    """For programs, for people, and for who finds the model."""
    place = Path(report.output_dir)
    replace_text(place / REPORT, json.dumps(report.as_dict(), indent=2) + "\n")
    replace_text(place / PAGE, report.as_page())
    # In the place of PEFT's and TRL's own.
    replace_text(place / CARD, report.as_card())


def prepare(
    plan: Plan, settings: Settings, run: RunSettings, estimate_on: EstimateOn, journal: Journal
) -> Training:
    """Checks, and everything that the trainer is built of."""
    check_objective(plan.objective)
    if plan.dataset is None:
        raise InvalidSettingError("The plan names no dataset.", ["--dataset train.jsonl"])
    examples = read_examples(plan.dataset, plan.objective, run, plan.seed)
    subject = preflight.Subject(plan, settings, run, examples, estimate_on)
    for check in preflight.EARLY:
        journal.events += check(subject)
    device = find_device()
    for check in preflight.LATE:
        journal.events += check(subject, device)
    estimate = None if device.is_cpu else estimate_on(device.name)
    plan = replace(plan, estimate=estimate) if estimate else plan
    stack.quieten()
    stack.transformers.set_seed(plan.seed)
    conversational = "text" not in examples.train[0] and "tokens" not in examples.train[0]
    chat = plan.objective in ("sft", "clm", "cpt") and conversational
    tokenizing = load_tokenizer(plan.model, chat=chat)
    for said in tokenizing.said:
        journal.say("tokenizer", said)
    family = find_model(plan.model).spec.family
    model = load_model(plan.model, family, settings, device, examples.labels)
    model = adapt(model, settings, total_steps(plan, settings, run, len(examples.train)))
    # From here on the directory is this run's.
    write_plan(plan, Path(run.output_dir) / PLAN)
    return Training(
        plan, settings, run, device, examples, tokenizing, model,
        _callbacks(plan, run, device, journal), journal,
    )  # fmt: skip


def report_of(of: Training, before: Measured, after: Measured) -> Report:
    """Everything that is known at the end."""
    estimate = of.plan.estimate.as_dict()
    predicted: dict[str, Any] = {**estimate["memory"], **(estimate["time"] or {})}
    return Report(
        status=of.journal.status,
        plan=of.plan,
        output_dir=of.run.output_dir,
        predicted={k: v for k, v in predicted.items() if isinstance(v, int | float)},
        measured=of.journal.measured,
        losses=tuple(of.journal.losses),
        metrics=compared(before, after, of.plan.seed),
        events=tuple(of.journal.events),
        versions=versions(),
        seed=of.plan.seed,
        answers=side_by_side(before, after),
        memory=tuple(of.journal.memory),
        labels=of.examples.labels,
    )


def versions() -> dict[str, str]:
    """Of Python and of each library that took part."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _callbacks(plan: Plan, run: RunSettings, device: Device, journal: Journal) -> list[Any]:
    # They are subclasses of Transformers' own: importing them is expensive.
    from ftadvisor.execution.callbacks.divergence import DivergenceCallback
    from ftadvisor.execution.callbacks.log import LogCallback
    from ftadvisor.execution.callbacks.measuring import MeasuringCallback
    from ftadvisor.execution.callbacks.ranks import RanksCallback

    found: list[Any] = [
        MeasuringCallback(device, journal),
        LogCallback(Path(run.output_dir) / LOG, journal),
        DivergenceCallback(journal),
    ]
    return [*found, RanksCallback()] if plan.technique == "adalora" else found

"""The order of a run: check, data, tokenizer, model, adapter, trainer, evaluate, train, save."""

from __future__ import annotations

import json
import logging
import math
import platform
import warnings
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
from ftadvisor.execution.examples import check_objective, read_examples
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.loading import load_model
from ftadvisor.execution.merging import merge_model
from ftadvisor.execution.saving import save_model
from ftadvisor.execution.tokenizing import load_tokenizer
from ftadvisor.execution.trainers import BUILDERS
from ftadvisor.execution.training import Training
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Metric, Report
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.plans import write_plan
from ftadvisor.sources.text_files import replace_text

LOG, PLAN, REPORT = "log.jsonl", "plan.yaml", "report.json"
LIBRARIES = (
    "ftadvisor", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets",
    "tokenizers", "safetensors",
)  # fmt: skip


LIKELIHOODS = ("sft", "clm", "cpt", "seq2seq")
"""Objectives whose loss is the text's negative log-likelihood a token."""
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
    before = evaluate(trainer, plan.objective)
    trainer.train()
    after = evaluate(trainer, plan.objective) if journal.status != "diverged" else {}
    if journal.status != "diverged":
        save_model(trainer, of.tokenizer, Path(run.output_dir), of.examples.labels)
        if run.merge and trainer.is_world_process_zero():
            _merge(of)
    report = report_of(of, before, after)
    text = json.dumps(report.as_dict(), indent=2)
    replace_text(Path(run.output_dir) / REPORT, text + "\n")
    return report


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
    _quieten()
    stack.transformers.set_seed(plan.seed)
    conversational = "text" not in examples.train[0] and "tokens" not in examples.train[0]
    chat = plan.objective in ("sft", "clm", "cpt", "distillation") and conversational
    tokenizing = load_tokenizer(plan.model, chat=chat, images=examples.has_images)
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


def evaluate(trainer: Any, objective: str) -> dict[str, float]:
    """The trainer's own figures on what is held out; nothing where nothing is."""
    if trainer.eval_dataset is None:
        return {}
    found = trainer.evaluate()
    figures = {k: float(v) for k, v in found.items() if k.startswith("eval_") and _is_metric(k)}
    # JSON has no others; where the loss is none the callbacks end the run.
    kept = {name: value for name, value in figures.items() if math.isfinite(value)}
    if "eval_loss" in kept and objective in LIKELIHOODS:
        kept["perplexity"] = math.exp(min(kept["eval_loss"], 700.0))
    return kept


def _merge(of: Training) -> None:
    place = merge_model(
        of.plan.model, find_model(of.plan.model).spec.family, of.settings, of.examples.labels,
        of.tokenizer, Path(of.run.output_dir),
    )  # fmt: skip
    said = f"merged into the base's weights: {place}" if place else "the model is whole: not merged"
    of.journal.say("merging", said)


def report_of(of: Training, before: dict[str, float], after: dict[str, float]) -> Report:
    """Everything that is known at the end."""
    estimate = of.plan.estimate.as_dict()
    predicted: dict[str, Any] = {**estimate["memory"], **(estimate["time"] or {})}
    metrics = {
        name: Metric(before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])
    }
    return Report(
        status=of.journal.status,
        plan=of.plan,
        output_dir=of.run.output_dir,
        predicted={k: v for k, v in predicted.items() if isinstance(v, int | float)},
        measured=of.journal.measured,
        losses=tuple(of.journal.losses),
        metrics=metrics,
        events=tuple(of.journal.events),
        versions=versions(),
        seed=of.plan.seed,
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


def _quieten() -> None:
    """The libraries' own bars and advice; their errors are still raised."""
    for name in ("bitsandbytes", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    stack.datasets.disable_progress_bars()
    stack.transformers.logging.set_verbosity_error()
    stack.transformers.logging.disable_progress_bar()
    # TRL 1.16 and PEFT 0.21 still use names that Transformers 5.23 calls old.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


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


def _is_metric(name: str) -> bool:
    """Not how long the evaluation took."""
    return not name.endswith(("runtime", "per_second", "_time", "num_tokens"))

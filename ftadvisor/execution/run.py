"""The order of a run: check, data, tokenizer, model, adapter, trainer, evaluate, train, save."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.errors import FtadvisorError, InvalidSettingError, first_line
from ftadvisor.execution import preflight, stack
from ftadvisor.execution.adapting import adapt, load_as_trained, set_adapter_dtype
from ftadvisor.execution.allocations import Allocations
from ftadvisor.execution.arguments import total_steps
from ftadvisor.execution.attempts import WaysToFit, told, until_it_fits
from ftadvisor.execution.checkpoints import default_steps, is_last, step_of, write_whole
from ftadvisor.execution.classes import as_numbered, own_classes
from ftadvisor.execution.conversation import is_conversational
from ftadvisor.execution.device import Device, find_device
from ftadvisor.execution.dividing import evaluates_first, share
from ftadvisor.execution.evaluation.comparison import Measured, compared, measure, side_by_side
from ftadvisor.execution.examples import Examples, check_objective, read_examples
from ftadvisor.execution.journal import RESUMED, EndedError, Journal
from ftadvisor.execution.launching import check_trainer, is_worker
from ftadvisor.execution.loading import load_model
from ftadvisor.execution.merging import merge_model
from ftadvisor.execution.out_of_memory import free_memory, is_out_of_memory
from ftadvisor.execution.preferences import POLICY, PREFERRING
from ftadvisor.execution.randomness import evaluate_apart, same_randomness
from ftadvisor.execution.recording import record_run
from ftadvisor.execution.rendering import rendered
from ftadvisor.execution.resuming import (
    CHECKPOINTS,
    LOG,
    REPORT,
    last_checkpoint,
    unplanned,
    write_identity,
)  # fmt: skip
from ftadvisor.execution.rewards import check_reward
from ftadvisor.execution.saving import save_model
from ftadvisor.execution.tokenizing import load_tokenizer
from ftadvisor.execution.trainers import BUILDERS, MAKES_THE_ADAPTER
from ftadvisor.execution.trainers.reward import head_of
from ftadvisor.execution.training import Training
from ftadvisor.execution.truncation import say_truncated
from ftadvisor.execution.unpacking import BASE, unpacked
from ftadvisor.execution.vocabulary import check_vocabulary
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Report
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model, model_config
from ftadvisor.sources.own_rows import versions
from ftadvisor.sources.plans import PLAN_FILE, write_plan
from ftadvisor.sources.text_files import replace_text

PAGE, CARD = "report.html", "README.md"
LIBRARIES = (
    "ftadvisor", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets",
    "tokenizers", "safetensors",
)  # fmt: skip

OF_A_GPU = ("reserved_", "device_")
"""Memory that a CPU's allocator does not count apart."""

EstimateOn = Callable[[str], Estimate | None]


class Start(NamedTuple):
    """What is settled before anything expensive."""

    plan: Plan
    settings: Settings
    run: RunSettings
    device: Device
    examples: Examples


class Outcome:
    """What is known of the run so far, over all attempts."""

    def __init__(self) -> None:
        self.begun = False
        self.before = self.after = Measured({}, [], [])


def execute(
    plan: Plan, settings: Settings, run: RunSettings, estimate_on: EstimateOn, ways: WaysToFit
) -> Report:
    """Train what the plan says; the output directory holds everything that came of it.

    Raises FtadvisorError before anything expensive starts for what cannot be run; whatever ends it
    later is in the report.
    """
    journal, outcome = Journal(), Outcome()
    start = check(plan, settings, run, estimate_on, journal)
    # A subclass of Transformers' own: importing it is expensive.
    with stack.uncollected():
        from ftadvisor.execution.callbacks.interruption import InterruptionCallback

    interruption = InterruptionCallback(journal)

    def attempt(settings: Settings) -> None:
        train(start._replace(settings=settings), journal, outcome, interruption)

    def begun() -> bool:
        return outcome.begun

    try:
        with interruption.watching(), told(journal, begun):
            until_it_fits(attempt, start.settings, start.device, journal, ways, begun)
    except (FtadvisorError, KeyboardInterrupt):
        _leave(start)
        raise
    with interruption.finishing():
        record_run(start.settings, start.device, report_of(start, journal, outcome), journal)
        return write_report(start, journal, outcome)


def _leave(start: Start) -> None:
    """The directory of a run that has not begun is free for the next one."""
    if start.device.rank or start.run.resume:
        return
    place = Path(start.run.output_dir)
    # It was checked to be new: what lies there is of this attempt. Trainers make the other one.
    shutil.rmtree(place / BASE, ignore_errors=True)
    with suppress(OSError):
        (place / CHECKPOINTS).rmdir()


def write_report(start: Start, journal: Journal, outcome: Outcome) -> Report:
    """For programs, for people, and for who finds the model; where they cannot be written the run
    has failed, and says so.
    """
    report = report_of(start, journal, outcome)
    if start.device.rank:
        return report
    try:
        if not outcome.begun:
            begin(start)
        write_files(report)
    except (OSError, InvalidSettingError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        journal.end("failed", "failed", f"{REPORT} cannot be written: {reason}", journal.step)
        return report_of(start, journal, outcome)
    return report


def write_files(report: Report) -> None:
    """A report's three files. Raises OSError."""
    place = Path(report.output_dir)
    replace_text(place / REPORT, json.dumps(report.as_dict(), indent=2) + "\n")
    replace_text(place / PAGE, report.as_page())
    # In the place of PEFT's and TRL's own.
    replace_text(place / CARD, report.as_card())


def check(
    plan: Plan, settings: Settings, run: RunSettings, estimate_on: EstimateOn, journal: Journal
) -> Start:
    """All checks, the cheap ones first."""
    check_objective(plan.objective)
    check_reward(plan, run)
    # It is asked for more than once.
    estimate_on = cache(estimate_on)
    if plan.dataset is None:
        raise InvalidSettingError("The plan names no dataset.", ["--dataset train.jsonl"])
    examples = read_examples(plan.dataset, plan.objective, run, plan.seed)
    if examples.labels:
        own = own_classes(model_config(plan.model), plan.objective)
        examples = examples._replace(labels=as_numbered(examples.labels, own))
    if run.save_steps is None:
        steps = total_steps(plan, settings, run, len(examples.train))
        run = replace(run, save_steps=default_steps(steps))
    subject = preflight.Subject(plan, settings, run, examples, estimate_on)
    for check in preflight.EARLY:
        journal.events += check(subject)
    device = find_device()
    if not is_worker():
        # As many will be started.
        device = device._replace(world_size=settings.num_gpus)
    for check in preflight.LATE:
        journal.events += check(subject, device)
    estimate = estimate_on(device.name)
    plan = replace(plan, estimate=estimate) if estimate else plan
    return Start(plan, settings, run, device, examples)


def train(start: Start, journal: Journal, outcome: Outcome, interruption: Any) -> None:
    """One attempt, from the last checkpoint where there is one."""
    place = Path(start.run.output_dir)
    goes_on = outcome.begun or start.run.resume
    last = last_checkpoint(place, journal) if goes_on else None
    of = load(start, journal, resumed=last is not None)
    of.callbacks.append(interruption)
    trainer = BUILDERS[start.plan.objective](of)
    check_trainer(trainer, start.settings)
    check_vocabulary(trainer, of.tokenizer)
    say_truncated(of, trainer)
    # It prints each row that is logged: log.jsonl has them, and standard output is the report's.
    trainer.remove_callback(stack.transformers.PrinterCallback)
    set_adapter_dtype(trainer.model, start.settings)
    load_as_trained(trainer, start.settings)
    for callback in of.callbacks:
        if hasattr(callback, "follow"):
            callback.follow(trainer)
    write_whole(trainer)
    evaluate_apart(trainer)
    if start.plan.technique == "adalora":
        from ftadvisor.execution.callbacks.ranks import continue_exactly

        continue_exactly(trainer)
    # From here on the directory is this run's.
    begin(start)
    outcome.begun = True
    _measure_base(trainer, of, outcome, resumed=last is not None)
    share(trainer, start.settings)
    if last is not None:
        journal.say(RESUMED, f"goes on from {last.name}", step_of(last))
    try:
        # The Trainer would train one step too many where none is left.
        if last is not None and is_last(last):
            _load(trainer, start.settings, last)
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            if not trainer.state.global_step:
                raise EndedError("failed", "no step was made: the data do not fill a batch")
    finally:
        for callback in of.callbacks:
            if hasattr(callback, "close"):
                callback.close(trainer.state)
    if journal.status in ("done", "stopped"):
        save_model(trainer, of.tokenizer, place, of.examples.labels)
        interruption.trained()
        outcome.after = _measure_trained(trainer, of)
        # Last: where it fails, all else is there.
        if start.run.merge and trainer.is_world_process_zero():
            _merge(of)


def _load(trainer: Any, settings: Settings, last: Path) -> None:
    """What is trained already."""
    if evaluates_first(settings):
        trainer._load_from_checkpoint(str(last))
        trainer.state = trainer.state.load_from_json(str(last / "trainer_state.json"))
        return
    from ftadvisor.execution.callbacks.divided import load_divided

    load_divided(trainer, str(last))


def _measure_base(trainer: Any, of: Training, outcome: Outcome, *, resumed: bool) -> None:
    """What `after` is compared with: now, or when the engine that divides the model has it."""

    def measured() -> None:
        with same_randomness():
            outcome.before = measure(trainer, of, base=True)

    if outcome.before.tallies:
        return
    if evaluates_first(of.settings):
        measured()
    elif not resumed:
        # A checkpoint is loaded before the first callback is called: the model is no base then.
        from ftadvisor.execution.callbacks.divided import BaseCallback

        # First: what the others clock begins after it.
        trainer.callback_handler.callbacks.insert(0, BaseCallback(measured))


def _measure_trained(trainer: Any, of: Training) -> Measured:
    """What `before` is compared with. Where memory runs out the run goes on from its checkpoint,
    which is its last step's; one that writes none would train all of it again, so that it is
    measured without the optimizer, or not at all.
    """
    with_checkpoints = of.run.save_steps or of.device.world_size > 1
    for last in (False, True):
        try:
            return measure(trainer, of, base=False)
        except Exception as error:
            if with_checkpoints or not is_out_of_memory(error):
                raise
            said = first_line(error)
        if last:
            break
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.accelerator.free_memory()
        free_memory()
    what = f"not evaluated after training, for memory ran out ({said}): the model is saved"
    of.journal.say("out_of_memory", what)
    return Measured({}, [], [])


def begin(start: Start) -> None:
    """The directory holds what this run is; of several processes the first one writes it."""
    if start.device.rank:
        return
    write_plan(start.plan, Path(start.run.output_dir) / PLAN_FILE)
    write_identity(start.plan, start.run, start.examples)


def load(start: Start, journal: Journal, *, resumed: bool) -> Training:
    """Everything that the trainer is built of."""
    plan, settings, examples = start.plan, start.settings, start.examples
    stack.quieten()
    source = unpacked(plan.model, settings, start.device, Path(start.run.output_dir))
    stack.transformers.set_seed(plan.seed)
    chat = is_conversational(examples.train[0])
    tokenizing = load_tokenizer(source, chat=chat, images=examples.has_images)
    for said in tokenizing.said:
        journal.say("tokenizer", said)
    examples = rendered(examples, tokenizing.tokenizer, journal)
    family = find_model(plan.model).spec.family
    labels = head_of(plan.objective, examples.labels)
    # Of an attempt before: what is loaded now is divided when a trainer has it.
    stack.transformers.integrations.unset_hf_deepspeed_config()
    model = load_model(source, family, settings, start.device, labels)
    if plan.objective not in MAKES_THE_ADAPTER:
        model = adapt(model, settings, total_steps(plan, settings, start.run, len(examples.train)))
    return Training(
        replace(plan, model=source), settings, start.run, start.device, examples, tokenizing, model,
        _callbacks(start, journal, resumed=resumed), journal,
    )  # fmt: skip


def _merge(of: Training) -> None:
    place = merge_model(
        of.plan.model, find_model(of.plan.model).spec.family, of.settings,
        head_of(of.plan.objective, of.examples.labels), of.tokenizer, Path(of.run.output_dir),
    )  # fmt: skip
    said = f"merged into the base's weights: {place}" if place else "the model is whole: not merged"
    of.journal.say("merging", said)


def report_of(start: Start, journal: Journal, outcome: Outcome) -> Report:
    """Everything that is known at the end."""
    estimate = start.plan.estimate.as_dict()
    predicted: dict[str, Any] = {**estimate["memory"], **(estimate["time"] or {})}
    return Report(
        status=journal.status,
        plan=start.plan,
        output_dir=start.run.output_dir,
        predicted={
            k: v
            for k, v in predicted.items()
            if isinstance(v, int | float) and not (start.device.is_cpu and k.startswith(OF_A_GPU))
        },
        measured=journal.measured,
        losses=tuple(journal.losses),
        metrics=compared(outcome.before, outcome.after, start.plan.seed),
        events=journal.told(),
        versions={"python": platform.python_version(), **versions(LIBRARIES)},
        seed=start.plan.seed,
        answers=side_by_side(outcome.before, outcome.after),
        memory=tuple(journal.memory),
        labels=start.examples.labels,
        options=unplanned(start.run),
    )


def _callbacks(start: Start, journal: Journal, *, resumed: bool) -> list[Any]:
    # They are subclasses of Transformers' own: importing them is expensive.
    from ftadvisor.execution.callbacks.continuing import ContinuingCallback
    from ftadvisor.execution.callbacks.divergence import DivergenceCallback
    from ftadvisor.execution.callbacks.log import LogCallback
    from ftadvisor.execution.callbacks.measuring import MeasuringCallback
    from ftadvisor.execution.callbacks.progress import ProgressCallback
    from ftadvisor.execution.callbacks.ranks import RanksCallback

    allocations = Allocations()
    found: list[Any] = [
        MeasuringCallback(start.device, journal, allocations),
        LogCallback(Path(start.run.output_dir) / LOG, journal, resumed=resumed),
        # A loss that may be zero, or below it, has no measure of growth.
        DivergenceCallback(journal, may_grow=start.plan.objective in (*POLICY, *PREFERRING)),
        ContinuingCallback(journal),
    ]
    if start.run.progress:
        found.append(ProgressCallback(start.device, start.plan.estimate, allocations))
    return [*found, RanksCallback()] if start.plan.technique == "adalora" else found

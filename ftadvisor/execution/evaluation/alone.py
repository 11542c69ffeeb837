"""A trained model evaluated by itself: the same trainer and metrics as around a run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError, InvalidSettingError, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.adapting import read_adapter
from ftadvisor.execution.checkpoints import finished
from ftadvisor.execution.classes import CLASSIFYING
from ftadvisor.execution.device import find_device
from ftadvisor.execution.evaluation.comparison import Measured, compared, measure, side_by_side
from ftadvisor.execution.evaluation.scores import can_be_switched_off
from ftadvisor.execution.examples import Examples, check_objective, read_held_out
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.loading import load_model
from ftadvisor.execution.pictures import check_sees
from ftadvisor.execution.rendering import rendered
from ftadvisor.execution.resuming import CHECKPOINTS, resume_command
from ftadvisor.execution.rewards import check_reward
from ftadvisor.execution.tokenizing import load_tokenizer
from ftadvisor.execution.trainers import BUILDERS, MAKES_THE_ADAPTER
from ftadvisor.execution.trainers.reward import head_of
from ftadvisor.execution.training import Training
from ftadvisor.execution.unpacking import BASE
from ftadvisor.schema.evaluation import Evaluation
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.plans import PLAN_FILE

ADAPTER = "adapter_config.json"


def evaluate(
    place: str, plan: Plan, settings: Settings, run: RunSettings, labels: Sequence[str]
) -> Evaluation:
    """Of the model or the adapter in `place`; `plan.dataset` holds the rows, all held out.

    An adapter is compared with its base. Raises FtadvisorError for what cannot be evaluated.
    """
    is_adapter = (Path(place) / ADAPTER).is_file()
    with tempfile.TemporaryDirectory() as scratch:
        of, trainer = _built(place, plan, settings, replace(run, output_dir=scratch), labels)
        if is_adapter and plan.objective in MAKES_THE_ADAPTER:
            _read_adapter(trainer.model, Path(place))
        trainer.remove_callback(stack.transformers.PrinterCallback)
        before = Measured({}, [], [])
        if is_adapter and not can_be_switched_off(trainer.model):
            of.journal.say("evaluation", "before: the adapter cannot be switched off")
        elif is_adapter:
            before = measure(trainer, of, base=True)
        after = measure(trainer, of, base=False)
    answers = side_by_side(before if is_adapter else after, after)
    if not is_adapter:
        answers = tuple(answer._replace(before="") for answer in answers)
    return Evaluation(
        model=place,
        base=plan.model if is_adapter else None,
        objective=plan.objective,
        dataset=plan.dataset.path if plan.dataset else "",
        num_rows=len(of.examples.held_out),
        metrics=compared(before, after, plan.seed),
        answers=answers,
        events=tuple(of.journal.events),
        seed=plan.seed,
    )


def _read_adapter(model: Any, place: Path) -> None:
    """Into the adapter that the trainer has made, beside which the base is the reference; of one
    that it is handed it would keep a copy as the reference.
    """
    if not (place / PLAN_FILE).is_file():
        # Nothing says what it was made with but its own configuration.
        model.delete_adapter("default")
    model.load_adapter(str(place), "default")
    model.set_adapter("default")


def _built(
    place: str, plan: Plan, settings: Settings, run: RunSettings, labels: Sequence[str]
) -> tuple[Training, Any]:
    """The trainer. It wants something to train on, even where it only evaluates: one row, or where
    max_length leaves nothing of that one all of them.
    """
    of = _prepared(place, plan, settings, run, labels)
    rows = of.examples.held_out
    shortest = min(rows, key=lambda row: len(str(row.get("prompt", row.get("messages", row)))))
    try:
        few = of._replace(examples=of.examples._replace(train=[shortest]))
        return few, BUILDERS[plan.objective](few)
    except InvalidSettingError:
        # Anew, for a trainer may have put an adapter into the model.
        of = _prepared(place, plan, settings, run, labels)
        return of, BUILDERS[plan.objective](of)


def _prepared(
    place: str, plan: Plan, settings: Settings, run: RunSettings, labels: Sequence[str]
) -> Training:
    """The rows, to train on too, and the model with its tokenizer."""
    check_objective(plan.objective)
    check_reward(plan, run)
    _check_trained(Path(place))
    if plan.dataset is None:
        raise InvalidSettingError("dataset is missing.", ["--dataset test.jsonl"])
    examples = read_held_out(plan.dataset, plan.objective)._replace(labels=tuple(labels))
    _check_labels(examples, plan.objective, plan.dataset.path)
    family = find_model(plan.model).spec.family
    if examples.has_images:
        check_sees(plan.model, family)
    journal = Journal()
    if examples.left_out:
        journal.say("data", f"{len(examples.left_out):,} rows left out")
    device = find_device()
    stack.quieten()
    stack.transformers.set_seed(plan.seed)
    folder = Path(place)
    is_adapter = (folder / ADAPTER).is_file()
    # Beside an adapter of a GGUF file lie the weights that it was trained on.
    unpacked = folder / BASE
    source = (str(unpacked) if unpacked.is_dir() else plan.model) if is_adapter else place
    own = place if (folder / "tokenizer_config.json").is_file() else source
    chat = plan.objective not in (*CLASSIFYING, "seq2seq") and "text" not in examples.held_out[0]
    tokenizing = load_tokenizer(own, chat=chat, images=examples.has_images)
    kept = rendered(examples, tokenizing.tokenizer, journal)
    examples = kept._replace(train=kept.held_out)
    head = head_of(plan.objective, tuple(labels))
    model = load_model(source, family, settings, device, head)
    if is_adapter and plan.objective not in MAKES_THE_ADAPTER:
        model = read_adapter(model, place)
        if labels:
            journal.say("evaluation", "before: the base with a head that nothing has trained")
    return Training(plan, settings, run, device, examples, tokenizing, model, [], journal)


def _check_trained(place: Path) -> None:
    """A run that was broken off has left checkpoints alone."""
    is_run = (place / PLAN_FILE).is_file()
    if is_run and not any((place / name).is_file() for name in (ADAPTER, "config.json")):
        last = [str(path) for path in finished(place / CHECKPOINTS)[-1:]]
        raise InvalidSettingError(
            f"{quoted(str(place))} holds no trained model: its run has not ended.",
            [resume_command(place), *last],
        )


def _check_labels(examples: Examples, objective: str, file: str) -> None:
    """The rows' classes are the model's."""
    if objective not in CLASSIFYING:
        return
    rows = examples.held_out
    found = {name for row in rows for name in row.get("labels", [row.get("label")])}
    strange = found - {*examples.labels}
    if strange:
        raise DataFileError(
            file, None, "label",
            f"is {quoted(min(strange))}, which is none of the model's classes",
            ", ".join(examples.labels[:10]) or "a model with classes",
        )  # fmt: skip

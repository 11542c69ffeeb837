"""Whom distillation follows: a frozen model of the student's vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftadvisor.errors import InvalidSettingError, UnsupportedError, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.loading import attention, pretrained, whole
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.report import Event
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model

if TYPE_CHECKING:
    from ftadvisor.execution.preflight import Subject

TAUGHT = "distillation"
LEAST_LARGER = 1.05
"""Times the student: from there on the estimate, which counts a teacher of its size, is told."""


def teacher(of: Subject) -> Iterator[Event]:
    """The teacher is named and has the student's vocabulary, by the configurations alone."""
    if of.plan.objective != TAUGHT:
        return
    name = of.plan.settings.get("teacher_model")
    if name is None:
        raise InvalidSettingError(
            "teacher_model is missing: distillation follows a teacher's logits.",
            ["--teacher-model MODEL", "teacher_model in the plan's settings"],
        )
    _check_student(of)
    student, taught_by = find_model(of.plan.model).spec, find_model(name).spec
    for spec in (student, taught_by):
        if spec.family != "decoder":
            raise UnsupportedError.of(
                f"Distillation with {spec.id}", "TRL distils decoders of text only"
            )
    if student.vocab_size != taught_by.vocab_size:
        raise InvalidSettingError(
            f"teacher_model {quoted(name)} has a vocabulary of {taught_by.vocab_size:,}, the"
            f" student one of {student.vocab_size:,}: their logits cannot be compared.",
            ["a teacher of the student's own family, with its tokenizer"],
        )
    yield from _told(of, student, taught_by)


def load_teacher(name: str, settings: Settings, device: Device, tokenizer: Any) -> Any:
    """The teacher, frozen, in its checkpoint's own dtype.

    Raises InvalidSettingError where its tokens are not the student's, ModelUnavailableError where
    it cannot be loaded.
    """
    found = find_model(name)
    place = found.spec.id if found.row else name
    own = pretrained(stack.transformers.AutoTokenizer, place)
    if own.get_vocab() != tokenizer.get_vocab():
        raise InvalidSettingError(
            f"teacher_model {quoted(name)} has as many tokens as the student, but others.",
            ["a teacher of the student's own family, with its tokenizer"],
        )
    model = whole(stack.transformers.AutoModelForCausalLM, place, **attention(found.spec, settings))
    model.config.use_cache = False
    # ZeRO-3 takes it from the CPU, piece by piece.
    place = "cpu" if settings.strategy == "zero3" else device.place
    return model.requires_grad_(False).eval().to(place)


def _check_student(of: Subject) -> None:
    """Raise for what TRL's DistillationTrainer does not train, or not as it seems."""
    if "lm_head" in of.settings.lora_target_modules:
        raise UnsupportedError.of(
            "Distillation with an adapter on lm_head", "TRL's loss reads the head without it",
            ["--lora-target-modules all-linear"],
        )  # fmt: skip
    beta = of.plan.settings.get("beta", 1.0)
    if not 0 <= beta <= 1:
        raise InvalidSettingError(
            f"beta {beta:g} with objective {TAUGHT}: it goes from 0 (forward divergence) to 1"
            " (reverse).",
            ["beta: 0.5"],
        )
    rows = [*of.examples.train, *of.examples.held_out]
    unanswered = sum("completion" not in row for row in rows)
    if of.plan.settings.get("lmbda", 1.0) < 1 and unanswered:
        raise InvalidSettingError(
            f"lmbda {of.plan.settings['lmbda']:g} asks for the data's own answers, and"
            f" {unanswered:,} of {len(rows):,} rows have none.",
            ["lmbda: 1", "rows with a completion"],
        )


def _told(of: Subject, student: ModelSpec, taught_by: ModelSpec) -> Iterator[Event]:
    """Where the run is not what the estimate is for."""
    larger = taught_by.num_params / student.num_params
    if not 1 / LEAST_LARGER < larger < LEAST_LARGER:
        what = f"the teacher is {larger:.2g} times the student; the estimate is for one of its size"
        yield Event("teacher", 0, what)
    lmbda = of.plan.settings.get("lmbda", 1.0)
    if lmbda < 1:
        what = f"lmbda {lmbda:g}: the estimate is for answers that the student generates"
        yield Event("teacher", 0, what)

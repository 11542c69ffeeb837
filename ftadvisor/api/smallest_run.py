"""What the reverse questions share: the smallest run of a technique, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from ftadvisor.api.estimator import Subject, predict, subject_from
from ftadvisor.configuration.effects import check_technique, of_technique
from ftadvisor.configuration.objectives import GROUPED
from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.prediction import verdict
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.estimate import Verdict
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.gpus import GpuMatch
from ftadvisor.sources.models import FoundModel
from ftadvisor.sources.techniques import all_techniques

SHARDED = ("zero3", "fsdp")
"""Strategies that divide weights too, the more usual first: what several cards are asked about
when no strategy is named."""
_ANSWERS = next(f.default for f in fields(Settings) if f.name == "num_generations")
_BYTES_OF_WEIGHT = {"none": 2.0, "int8": 1.0, "gptq-int8": 1.0}
"""Least bytes of a parameter: no weights are stored in less than 16 bits unquantised; half a byte
in the 4-bit quantisations."""
_LEAST_SHARE = 0.6
"""No interval of data/coefficients reaches further down than to 0.69 of the figure."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A reverse question, its names turned into records as far as it has them."""

    gpu: GpuMatch | None
    technique: Technique | None
    objective: str | None
    options: dict[str, Any]
    """Settings, checked one by one; the workload's are taken out."""
    workload: Workload
    from_dataset: bool
    calibration: Calibration | None = None

    def subject(self, found: FoundModel, gpu: GpuMatch | None = None) -> Subject:
        """What is estimated for one model. Raises FtadvisorError for what it cannot be."""
        options = filled(self.options, from_dataset=self.from_dataset)
        of = found, gpu or self.gpu, self.objective, options, self.workload
        return subject_from(*of, self.calibration)

    def techniques(self) -> tuple[Technique, ...]:
        """The technique that was named, else all sensible ones."""
        if self.technique is not None:
            check_technique(self.options, self.technique)
            return (self.technique,)
        return tuple(t for t in all_techniques() if t.sensible)


class Judged(NamedTuple):
    """A run and whether it fits."""

    verdict: Verdict
    subject: Subject
    """With the strategy by which it was judged."""
    device_bytes: int


def filled(options: dict[str, Any], *, from_dataset: bool) -> dict[str, Any]:
    """With a sequence that fills a max_length which was named.

    The peak follows the longest sequence, and the reference data's is shorter than many a
    max_length: the answer would hold for that data only.
    """
    told = from_dataset or "longest_length" in options or options.get("packing")
    if told or "max_length" not in options:
        return options
    return {**options, "longest_length": options["max_length"]}


def smallest(subject: Subject, technique: Technique) -> Subject:
    """The run that needs least: the smallest batch that the objective's trainer takes, and
    gradient checkpointing, unless the options say otherwise."""
    given = of_technique(subject.options, technique)
    least: dict[str, Any] = {"micro_batch_size": 2 if subject.objective == "kto" else 1}
    if subject.objective in GROUPED:
        answers = given.get("num_generations", _ANSWERS)
        least["gradient_accumulation_steps"] = answers
    if not technique.forbids_checkpointing:
        least["gradient_checkpointing"] = "full"
    return replace(subject, options={**least, **given})


def judge(subject: Subject, technique: Technique) -> Judged:
    """Whether it fits; over several GPUs without a strategy, by the one that gets it furthest.

    Raises FtadvisorError for settings that exclude each other, and where no strategy takes them.
    """
    best: Judged | None = None
    refused: UnsupportedError | None = None
    for run in _shared(subject):
        assert run.gpu is not None
        try:
            memory = predict(run, technique).memory
        except UnsupportedError as error:
            refused = refused or error
            continue
        usable = run.gpu.usable_bytes
        found = Judged(verdict(memory, usable), run, round(memory.device.value))
        if found.verdict == "fits":
            return found
        if best is None or (best.verdict, found.verdict) == ("does_not_fit", "tight"):
            best = found
    if best is None:
        assert refused is not None
        raise refused
    return best


def _shared(subject: Subject) -> Iterator[Subject]:
    options = subject.options
    if options.get("num_gpus", 1) == 1 or "strategy" in options:
        yield subject
        return
    for strategy in SHARDED:
        yield replace(subject, options={**options, "strategy": strategy})


def hopeless(subject: Subject, technique: Technique, num_gpus: int = 1) -> bool:
    """Whether the weights alone are more than the GPUs hold, by a bound that costs nothing."""
    options = subject.options
    if subject.gpu is None or options.get("offload_params"):
        return False
    quantization = options.get("quantization", technique.settings.get("quantization", "none"))
    size = _BYTES_OF_WEIGHT.get(quantization, 0.5) * _LEAST_SHARE
    return subject.model.num_params * size > subject.gpu.usable_bytes * num_gpus

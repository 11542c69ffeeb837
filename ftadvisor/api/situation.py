"""From what a person says to questions that can be searched: models, GPUs, data, objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, cast

from ftadvisor.advice.engine import holding
from ftadvisor.advice.facts import size_class, with_dataset, with_gpu, with_model
from ftadvisor.advice.question import Offer, Question
from ftadvisor.api.calibrating import ANY, find_hardware, fitted_for, is_unmeasured
from ftadvisor.api.wishes import Wish, read_wishes
from ftadvisor.configuration.objectives import objective_of
from ftadvisor.configuration.options import check_options
from ftadvisor.configuration.settings import FOUR_BIT
from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.estimation.calibrated import CPU, is_cpu
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.dataset import DatasetProfile
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.rule import Rule, Sizes
from ftadvisor.schema.situation import Facts
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.goals import goal_worths, weighed_techniques
from ftadvisor.sources.gpus import all_gpus
from ftadvisor.sources.models import find_model
from ftadvisor.sources.prices import cheapest_price
from ftadvisor.sources.proposals import Proposal, all_proposals, permissive_licenses
from ftadvisor.sources.rules import rules_with
from ftadvisor.sources.techniques import find_task, find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, TRAINERS_OF_OBJECTIVES, find_trainer
from ftadvisor.sources.workloads import reference_workload

COUNTS = (1, 2, 4, 8)
"""Of GPUs in one machine, where any may be had."""
LENGTHS = tuple(n * 2**power for power in range(6, 17) for n in (2, 3))
P99_OVER_MEAN = 3.6
"""99th percentile over mean of lognormal lengths with a deviation of 0.7 of the mean
(`sources.lengths.DEVIATION_OVER_MEAN`): exp(2.33 x 0.63 - 0.2)."""
PACKED_LENGTH = 2048
"""Tokens of a row of continued pretraining: TRL's texts are joined, so no example asks for more;
long enough that few are cut, short enough for small cards."""
NEEDS_FORMAT = {
    "dpo": ("preference",),
    "orpo": ("preference",),
    "reward": ("preference",),
    "kto": ("unpaired_preference", "preference"),
}
"""Formats that an objective can learn from; others take several."""
OF_THE_DATA = frozenset({"mean_length", "longest_length", "num_images", "price"})
"""Given options that describe, and ask for nothing."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What all questions of one call share."""

    wish: Wish
    options: dict[str, Any]
    """Settings that the person fixed, checked; `gpu`, `model` and the data taken out."""
    technique: str | None
    objective: str | None
    rules: tuple[Rule, ...]
    profile: DatasetProfile | None
    workload: Workload
    offers: tuple[Offer, ...]
    on_cpu: bool
    assumptions: tuple[str, ...]
    simulate: bool = False
    """Plans get the memory of the simulated step."""
    calibration: Calibration | None = None


def situation_of(
    model: str | None,
    gpu: Any,
    technique: str | None,
    objective: str | None,
    options: dict[str, Any],
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Situation:
    """Everything but the model, checked and read."""
    if "rlhf" in (technique, objective):
        # GRPO, and from people's judgement: what a task of its name does not say.
        options.setdefault("use_case", "rlhf")
    wish = read_wishes(options)
    dataset = options.pop("dataset", None)
    given = check_options(options)
    chosen, purpose = find_task(technique, objective)
    if purpose == "ppo" or chosen == "ppo":
        purpose = "ppo"
    profile = _profile(dataset, model, progress)
    num_gpus = given.pop("num_gpus", None)
    offers = offers_of(gpu, num_gpus, given.get("price"), calibration)
    return Situation(
        wish=wish,
        options=given,
        technique=chosen,
        objective=purpose,
        rules=rules_with(wish.rules),
        profile=profile,
        workload=workload_of(wish, given, profile),
        offers=offers,
        on_cpu=gpu == CPU,
        assumptions=(),
        calibration=calibration,
    )


def _profile(
    dataset: Any, model: str | None, progress: Callable[[int, int], None] | None
) -> DatasetProfile | None:
    if dataset is None:
        return None
    from ftadvisor.sources.datasets import profile_dataset

    profile = profile_dataset(Path(dataset), tokenizer=_tokenizer(model), progress=progress)
    if not profile.num_examples:
        raise InvalidSettingError(
            f"dataset {str(dataset)!r} has no usable row: nothing to train on.",
            ["a file with rows of text"],
        )
    return profile


def _tokenizer(model: str | None) -> str | Path | None:
    """Where the model's own tokenizer may be: its directory, or the hub's cache."""
    if model is None:
        return None
    return Path(model) if Path(model).is_dir() else find_model(model).spec.id


def offers_of(
    gpu: Any, num_gpus: int | None, price: float | None, calibration: Calibration | None
) -> tuple[Offer, ...]:
    """What can be had: one GPU, a list to choose from, any that has a price, or this machine's
    processor; nothing where that was not measured.

    Several GPUs may be used in part: a plan takes no more than it needs.
    """
    if gpu is None or is_unmeasured(gpu, num_gpus or 1, calibration):
        return ()
    today = date.today()
    if gpu == ANY:
        counts = COUNTS if num_gpus is None else _counts(num_gpus)
        rows = ((g, cheapest_price(g.id, today)) for g in all_gpus())
        return tuple(Offer(g, counts, p.usd_per_gpu_hour, False) for g, p in rows if p is not None)
    names = [gpu] if isinstance(gpu, str) else list(gpu)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidSettingError.of("gpu", gpu, "be a GPU's name, several, or any", ["rtx4090"])
    found: list[Offer] = []
    for name in names:
        one = find_hardware(name, calibration).gpu
        offered = cheapest_price(one.id, today)
        usd = price if price is not None else offered.usd_per_gpu_hour if offered else None
        found.append(Offer(one, _counts(num_gpus or 1), usd))
    return tuple({offer.gpu.id: offer for offer in found}.values())


def _counts(most: int) -> tuple[int, ...]:
    """Powers of two up to the number at hand, and that number."""
    return tuple(sorted({*(n for n in COUNTS if n <= most), most}))


def workload_of(wish: Wish, options: dict[str, Any], profile: DatasetProfile | None) -> Workload:
    """How much there is to train on: the dataset, else what was said of it, else Alpaca's size."""
    if profile is not None and profile.lengths is not None:
        from ftadvisor.sources.datasets import read_workload

        return read_workload(Path(profile.path), 1.0)
    reference = reference_workload(1.0)
    mean = options.get("mean_length")
    if wish.facts.num_examples is None and mean is None:
        return reference
    mean_tokens = float(mean or reference.mean_tokens)
    return Workload(
        name="the stated data",
        # Where nobody says how many, as many tokens as the reference has: so does an estimate.
        num_examples=wish.facts.num_examples or reference.num_tokens / mean_tokens,
        mean_tokens=mean_tokens,
    )


def candidates(situation: Situation, model: str | None) -> Iterator[tuple[str, str]]:
    """Models to try, and why: the one that was named, else proposals in order."""
    if model is not None:
        yield model, ""
        return
    found = [p for p in all_proposals() if _suits(p, situation)]
    if situation.wish.goal == "quality":
        found.sort(key=lambda p: -find_model(p.model).spec.num_params)
    if not found:
        raise InvalidSettingError(
            "no model of the catalogue's proposals has that size, licence, context and languages.",
            ["--model NAME", "ftadvisor list models"],
        )
    for proposal in found:
        yield proposal.model, proposal.why


def _suits(proposal: Proposal, situation: Situation) -> bool:
    wish = situation.wish
    use_case = wish.facts.use_case or _use_case_of(wish.facts, situation.profile)
    if use_case not in proposal.use_cases:
        return False
    if wish.license == "permissive" and proposal.license not in permissive_licenses():
        return False
    if wish.facts.multilingual and not proposal.multilingual:
        return False
    if situation.options.get("max_length", 0) > proposal.context:
        return False
    size = size_class(find_model(proposal.model).spec.num_params)
    return size in _sizes(situation, use_case)


def _use_case_of(facts: Facts, profile: DatasetProfile | None) -> str:
    data = facts.data_format or (profile.format if profile else None)
    if data == "labelled":
        return "classification"
    return "multimodal" if data == "image_text" else "instruction"


def _sizes(situation: Situation, use_case: str) -> tuple[str, ...]:
    """The size that was asked for, else those that are usual for the use case."""
    if situation.wish.size is not None:
        return (situation.wish.size,)
    facts = replace(situation.wish.facts, use_case=cast("Any", use_case), size_class="large")
    rows = [e.sizes for _, e in holding(situation.rules, facts).effects(Sizes)]
    return rows[0] if rows else ("small", "medium", "large")


def question_of(situation: Situation, model: str) -> Question:
    """Everything that a search needs for one model. Raises FtadvisorError for what cannot be."""
    found = find_model(model)
    spec = found.spec
    facts = facts_of(situation, spec, (found.row or {}).get("modality", "text"))
    objective = _objective(situation, spec, facts)
    options = dict(situation.options)
    max_length = _max_length(situation, spec, objective)
    if "mean_length" in options:
        # What is longer is cut.
        options["mean_length"] = min(options["mean_length"], max_length)
    if facts.modality == "vision" and facts.data_format in (None, "image_text"):
        options.setdefault("num_images", 1)
    trainer = find_trainer(
        options.pop("trainer", TRAINERS_OF_OBJECTIVES.get(objective, DEFAULT_TRAINER)),
        on_cpu=any(is_cpu(offer.gpu) for offer in situation.offers),
    )
    return Question(
        model=spec,
        name=spec.id if found.row else model,
        objective=objective,
        trainer=trainer,
        workload=situation.workload,
        offers=tuple(_calibrated(situation)),
        techniques=_techniques(situation),
        facts=replace(
            facts,
            objective=objective,
            lora_r=options.get("lora_r"),
            quantization=options.get("quantization"),
            global_batch_size=situation.wish.fixed.get("global_batch_size"),
        ),
        rules=situation.rules,
        goal=situation.wish.goal,
        worth=goal_worths()[situation.wish.goal],
        fitted=fitted_for(None, None),
        options={**options, **situation.wish.fixed},
        max_length=max_length,
        longest_tokens=_wanted_length(situation),
        technique=_technique(situation),
        asked=frozenset(situation.options.keys() - OF_THE_DATA)
        | ({"objective"} if situation.objective else set[str]())
        | ({"technique"} if situation.technique else set[str]()),
        budget_usd=situation.wish.budget_usd,
        deadline_seconds=situation.wish.deadline_seconds,
    )


def _calibrated(situation: Situation) -> Iterator[Offer]:
    """The offers, those that measurements speak of with their own numbers."""
    shipped = fitted_for(None, None)
    for offer in situation.offers:
        fitted = fitted_for(offer.gpu, situation.calibration)
        yield offer if fitted is shipped else offer._replace(calibrated=fitted)


def facts_of(situation: Situation, spec: ModelSpec, modality: str) -> Facts:
    """What the rules may ask about this model with this data on these GPUs."""
    facts = with_model(
        situation.wish.facts, spec, modality="vision" if "image" in modality else "text"
    )
    if situation.profile is not None:
        facts = with_dataset(facts, situation.profile)
    elif facts.num_examples is not None or "mean_length" in situation.options:
        w = situation.workload
        facts = replace(
            facts, num_tokens=w.num_examples * w.mean_tokens, mean_tokens=w.mean_tokens,
            num_examples=w.num_examples,
        )  # fmt: skip
    if situation.on_cpu:
        return replace(facts, accelerator="cpu")
    if situation.offers:
        first = situation.offers[0]
        facts = with_gpu(facts, first.gpu, max(first.counts))
    return facts


def _objective(situation: Situation, spec: ModelSpec, facts: Facts) -> str:
    """The person's objective, else the rules'; checked against model and data."""
    if facts.use_case == "multimodal" and facts.modality == "text":
        raise UnsupportedError.of(
            f"multimodal with {spec.id}", "it reads no image", ["--model qwen2.5-vl-7b"]
        )
    generating = facts.use_case not in (None, "classification", "embedding")
    if facts.family == "encoder" and generating and situation.objective is None:
        raise UnsupportedError.of(
            f"{facts.use_case} with {spec.id}",
            "an encoder generates nothing",
            ["a decoder: --model qwen3-0.6b", "--use-case classification"],
        )
    objective = situation.objective
    if objective is None:
        fired = holding(situation.rules, facts).objective()
        objective = fired.value[0] if fired else None
    if objective == "ppo":
        raise UnsupportedError.of(
            "objective ppo", "TRL has no PPO trainer any more", ["grpo", "rloo"]
        )
    objective, _ = objective_of(spec, objective)
    needed = NEEDS_FORMAT.get(objective)
    if needed and situation.profile is not None and facts.data_format not in needed:
        raise InvalidSettingError(
            f"objective {objective} learns from preferences (chosen and rejected answers), and the"
            f" dataset's rows are {facts.data_format or 'of several formats'}.",
            ["--objective sft", "a dataset with chosen and rejected columns"],
        )
    return objective


def _technique(situation: Situation) -> str | None:
    """The technique that was asked for, as its base makes it: lora on four bits is qlora."""
    asked = situation.technique
    four_bit = situation.options.get("quantization") in FOUR_BIT
    return "qlora" if asked == "lora" and four_bit else asked


def _techniques(situation: Situation) -> tuple[Technique, ...]:
    asked = [situation.technique] if situation.technique is not None else []
    return tuple(find_technique(name) for name in dict.fromkeys([*asked, *weighed_techniques()]))


def _max_length(situation: Situation, spec: ModelSpec, objective: str) -> int:
    """The person's, else the shortest that cuts one example in a hundred, within the context."""
    given = situation.options.get("max_length")
    limit = spec.max_position_embeddings or LENGTHS[-1]
    if given is not None:
        return int(given)
    if objective in ("cpt", "clm"):
        return min(PACKED_LENGTH, limit)
    wanted = _wanted_length(situation)
    fitting = next((n for n in LENGTHS if n >= wanted), LENGTHS[-1])
    return min(fitting, limit)


def _wanted_length(situation: Situation) -> float:
    """Tokens of all but one example in a hundred."""
    profile = situation.profile
    if profile is not None and profile.lengths is not None:
        return profile.lengths.percentiles[99]
    return P99_OVER_MEAN * situation.workload.mean_tokens

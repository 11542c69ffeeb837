"""A user's options to a run's settings: defaults filled in, contradictions refused, both said."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ftadvisor.api.options import PRECISIONS
from ftadvisor.errors import InvalidSettingError
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.lengths import batch_lengths
from ftadvisor.sources.techniques import find_technique

FOUR_BIT = frozenset({"nf4", "nf4-dq", "gptq-int4", "awq-int4"})


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings and what was assumed to arrive at them."""

    settings: Settings
    technique: Technique
    """lora on a 4-bit base has become qlora."""
    assumptions: tuple[str, ...]


def resolve(
    options: dict[str, Any],
    model: ModelSpec,
    technique: Technique,
    objective: str,
    trainer: Trainer,
    gpu: Gpu | None,
    workload: Workload,
) -> Resolved:
    """Fill in defaults: the user's value, else the trainer's, else the record's own.

    Raises InvalidSettingError for values that contradict one another or the model.
    """
    said: list[str] = []
    given = options
    technique = _on_its_base(technique, given)
    chosen: dict[str, Any] = dict(trainer.defaults)
    trained_dtype = chosen.pop("trained_weights_dtype", chosen["weights_dtype"])
    if technique.trains_base:
        chosen["weights_dtype"] = trained_dtype
    chosen.update(_precision(given, chosen, gpu, said))
    chosen.update(_technique_defaults(given, technique, trainer, chosen, said))
    chosen.update((k, v) for k, v in given.items() if k in _FIELDS)
    chosen["technique"], chosen["objective"] = technique.id, objective
    _check_technique(chosen, given, technique, said)
    _set_strategy(chosen, given, said)
    _set_lengths(chosen, given, model, workload, said)
    return Resolved(Settings(**chosen), technique, tuple(said))


_FIELDS = frozenset(f.name for f in fields(Settings))


def _precision(
    given: dict[str, Any], defaults: dict[str, Any], gpu: Gpu | None, said: list[str]
) -> dict[str, Any]:
    """Dtypes from the preset or the trainer; bf16 becomes fp16 where the GPU has none."""
    preset = PRECISIONS.get(given.get("precision", ""), {})
    chosen = {
        "weights_dtype": defaults["weights_dtype"],
        "autocast": defaults["autocast"],
        **preset,
        **{k: given[k] for k in ("weights_dtype", "autocast") if k in given},
    }
    if gpu is None or gpu.has_bf16:
        return chosen
    asked = [k for k in ("precision", "weights_dtype", "autocast") if "bf16" in str(given.get(k))]
    if asked:
        raise InvalidSettingError(
            f"{asked[0]} {given[asked[0]]}: {gpu.name} has no bf16"
            f" (compute capability {gpu.compute_capability}).",
            [f"--{asked[0].replace('_', '-')} {str(given[asked[0]]).replace('bf16', 'fp16')}"],
        )
    if "bf16" in chosen.values():
        said.append(f"fp16 instead of bf16, which {gpu.name} does not have")
    return {k: "fp16" if v == "bf16" else v for k, v in chosen.items()}


def _technique_defaults(
    given: dict[str, Any],
    technique: Technique,
    trainer: Trainer,
    chosen: dict[str, Any],
    said: list[str],
) -> dict[str, Any]:
    found: dict[str, Any] = dict(technique.settings)
    quantization = given.get("quantization", found.get("quantization", "none"))
    if "adapter_dtype" not in given:
        half = trainer.adapter_dtype == "weights" or (
            trainer.kbit_adapters_half and quantization != "none"
        )
        found["adapter_dtype"] = chosen["weights_dtype"] if half else "fp32"
    if quantization != "none" and "quantization" not in given:
        said.append(f"quantization {quantization}: bitsandbytes' default 4-bit type")
    if not technique.trains_base and "lora_r" not in given and "lora_r" in found:
        said.append(f"lora_r {found['lora_r']}")
    return found


def _on_its_base(technique: Technique, given: dict[str, Any]) -> Technique:
    """lora on a 4-bit base is qlora, under its own name; what cannot be is refused."""
    quantization = given.get("quantization")
    if technique.id == "lora" and quantization in FOUR_BIT:
        return find_technique("qlora")
    if technique.id == "qlora" and quantization is not None and quantization not in FOUR_BIT:
        raise InvalidSettingError(
            f"technique qlora with quantization {quantization}: QLoRA is LoRA on a 4-bit base.",
            [f"--technique lora --quantization {quantization}", "--quantization nf4"],
        )
    if quantization in (None, "none") or technique.quantizable:
        return technique
    why = (
        "quantised weights cannot be trained"
        if technique.trains_base
        else "PEFT has no such layer for a quantised base"
    )
    raise InvalidSettingError(
        f"technique {technique.id} with quantization {quantization}: {why}.",
        ["--technique qlora", "--quantization none"],
    )


def _check_technique(
    chosen: dict[str, Any], given: dict[str, Any], technique: Technique, said: list[str]
) -> None:
    if technique.forbids_checkpointing and chosen["gradient_checkpointing"] != "none":
        if given.get("gradient_checkpointing") not in (None, "none"):
            raise InvalidSettingError(
                f"technique {technique.id} with gradient_checkpointing"
                f" {given['gradient_checkpointing']}: PEFT refuses the pair, its prefix is lost in"
                " the recomputation.",
                ["--gradient-checkpointing none", "--technique prompt_tuning"],
            )
        chosen["gradient_checkpointing"] = "none"
        said.append(f"no gradient checkpointing: {technique.id} does not work with it")


def _set_strategy(chosen: dict[str, Any], given: dict[str, Any], said: list[str]) -> None:
    gpus = chosen.get("num_gpus", 1)
    strategy = given.get("strategy")
    if gpus == 1 and strategy not in (None, "none"):
        raise InvalidSettingError(
            f"strategy {strategy} with num_gpus 1: there is nothing to divide.",
            ["--num-gpus 2", "--strategy none"],
        )
    if gpus > 1 and strategy in (None, "none"):
        chosen["strategy"] = "ddp"
        said.append(f"strategy ddp: every one of the {gpus} GPUs holds the whole model")


def _set_lengths(
    chosen: dict[str, Any],
    given: dict[str, Any],
    model: ModelSpec,
    workload: Workload,
    said: list[str],
) -> None:
    cap = chosen["max_length"]
    limit = model.max_position_embeddings
    if limit and cap > limit:
        if "max_length" in given:
            raise InvalidSettingError(
                f"max_length {cap}: {model.id} takes at most {limit} tokens.",
                [f"--max-length {limit}", "a model with a longer context"],
            )
        cap = chosen["max_length"] = limit
        said.append(f"max_length {limit}: the model's context")
    if chosen.get("packing"):
        chosen["mean_length"] = chosen["mean_padded_length"] = chosen["longest_length"] = cap
        return
    mean = given.get("mean_length") or min(workload.mean_tokens, cap)
    longest = given.get("longest_length") or workload.longest_tokens
    found = batch_lengths(
        cap=cap,
        mean=mean,
        deviation=workload.deviation_tokens,
        longest=min(longest, cap) if longest else None,
        micro_batch_size=int(chosen["micro_batch_size"]),
    )
    said.extend(found.assumptions)
    chosen["mean_length"] = mean
    chosen["longest_length"] = found.longest
    chosen["typical_length"] = found.typical
    padding = workload.padded_over_mean
    padded = found.mean_padded if padding is None else min(mean * padding, found.longest)
    chosen["mean_padded_length"] = padded

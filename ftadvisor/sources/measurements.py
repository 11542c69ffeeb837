"""Measurement files to records, and their spellings to ftadvisor's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError, UnsupportedError
from ftadvisor.schema.measurement import Measurement, Situation
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.lengths import published_lengths
from ftadvisor.sources.measurement_rows import read_rows
from ftadvisor.sources.trainers import find_trainer, trainer_rows

_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw (torch)": "adamw_torch",
    "adam": "adamw_torch",
    "decoupledadamw": "adamw_torch",
    "lora-fa": "adamw_torch",
    "galoreadamw": "galore_adamw",
    "pagedadamw": "paged_adamw_32bit",
    "pagedadamw (bnb)": "paged_adamw_32bit",
    "adamw bf16 states + bf16 master": "adamw_torch",
    "adamw fp32 states": "adamw_torch",
}
_OPTIM_NAMES = frozenset(
    {
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit",
        "paged_adamw_32bit", "adafactor", "sgd", "lion_32bit", "lion_8bit", "galore_adamw",
    }
)  # fmt: skip
"""Rows of a user's own may spell an optimizer as Transformers does."""
UNDATED = "4.48"
"""Transformers' version where a row states none: that of the largest source."""
_DTYPES = {"fp32", "bf16", "fp16", "fp8"}
_STRATEGIES = {"none", "ddp", "zero1", "zero2", "zero3", "fsdp", "fsdp-shard-grad-op"}
_QUANTIZATIONS = {"none", "nf4", "nf4-dq", "int8", "gptq-int4", "gptq-int8", "awq-int4"}


def read_measurements(path: Path | None = None) -> tuple[Measurement, ...]:
    """All rows of a file, or of every file in `data/measurements/`.

    Raises DataFileError that names every line that cannot be used.
    """
    paths = [path] if path else sorted((data_dir() / "measurements").glob("*.jsonl"))
    return tuple(m for p in paths for m in _read_file(p))


def _read_file(path: Path) -> list[Measurement]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataFileError(
            str(path), None, None, f"cannot be read: {reason}", "a JSONL file of measurements"
        ) from error
    return [_measurement(row) for row in read_rows(str(path), text)]


def _measurement(row: dict[str, Any]) -> Measurement:
    return Measurement(
        id=row["id"],
        source=row["source"],
        grade=row["grade"],
        model=row["model"],
        gpu=row["gpu"],
        memory_gib=row.get("memory_gib"),
        memory_metric=row.get("memory_metric"),
        oom=bool(row.get("oom")),
        micro_step_seconds=row.get("micro_step_seconds"),
        lower_bound=bool(row.get("lower_bound")),
        row=row,
    )


def situation(m: Measurement, *, stand_in: bool = False) -> Situation:
    """A measurement in the terms of a user's options. Raises UnsupportedError with the reason.

    `stand_in`: as if nothing were known of the program that ran it.
    """
    row = m.row
    assumptions: list[str] = []
    trainer = _stand_in(row, assumptions) if stand_in else _trainer(row, assumptions)
    if row.get("micro_batch_size") is None or row.get("max_length") is None:
        raise UnsupportedError.of(m.id, "its micro-batch size or length is not published", ())
    quantization = _quantization(row, assumptions)
    precision = row["precision"]
    rank = int(float(row.get("lora_r") or 0))
    lengths = published_lengths(row)
    assumptions.extend(lengths.assumptions)
    strategy, unsupported = _strategy(row)
    settings = Settings(
        technique=_technique(row),
        objective="clm" if row["technique"] == "full" else "sft",
        micro_batch_size=row["micro_batch_size"],
        gradient_accumulation_steps=row.get("gradient_accumulation_steps") or 1,
        max_length=row["max_length"],
        packing=row.get("sequence_fill") in ("full", "padding-free"),
        mean_length=lengths.mean,
        mean_padded_length=lengths.mean_padded,
        longest_length=lengths.longest,
        typical_length=lengths.typical,
        weights_dtype=_weights_dtype(precision),
        autocast=_autocast(precision),
        fp8=precision.get("compute") == "fp8",
        adapter_dtype=_adapter_dtype(trainer.adapter_dtype, precision),
        quantization=quantization,
        quantization_group_size=row.get("quantization_group_size") or 128,
        optim=_optim(row, assumptions),
        gradient_checkpointing=_checkpointing(row),
        attn_implementation=_attention(row),
        lora_r=rank,
        lora_alpha=float(row.get("lora_alpha") or 2 * rank),
        lora_dropout=_dropout(row, trainer.defaults),
        lora_target_modules=_targets(row.get("lora_target_modules")),
        peft_config=row.get("peft_config") or {},
        **_kernels(row),
        num_gpus=row.get("num_gpus") or 1,
        strategy=strategy,  # pyright: ignore[reportArgumentType]
        offload_optimizer=bool(row.get("cpu_offload")),
        offload_params=bool(row.get("cpu_offload")),
    )
    return Situation(settings, trainer, tuple(assumptions), unsupported)


def _trainer(row: dict[str, Any], assumptions: list[str]) -> Trainer:
    """The row's own trainer, else a stand-in."""
    found = _trainer_id(row)
    return find_trainer(found) if found is not None else _stand_in(row, assumptions)


def _stand_in(row: dict[str, Any], assumptions: list[str]) -> Trainer:
    """The Transformers Trainer of about the row's time, never measured.

    It prepares bitsandbytes' bases as PEFT's documentation tells every program to
    (peft/docs/source/developer_guides/quantization.md, prepare_model_for_kbit_training).
    """
    old = _version(_transformers(row) or UNDATED) < _version("4.46")
    stand_in = find_trainer("transformers-4.40" if old else "transformers-4.48")
    assumptions.append(f"{row['framework']} is not known: taken to be {stand_in.id}")
    prepares = str(row.get("quantization") or "").startswith(("nf4", "int8"))
    return replace(stand_in, measured=False, stand_in=True, prepares_kbit=prepares)


def _trainer_id(row: dict[str, Any]) -> str | None:
    """The trainer whose `published_as` matches the row most closely."""
    best, best_score = None, -1
    version = _transformers(row)
    for id_, trainer in trainer_rows().items():
        for rule in trainer["published_as"]:
            if not row["framework"].startswith(rule["framework"]):
                continue
            score = len(rule["framework"]) + 100 * sum(1 for key in rule if key != "framework")
            if score > best_score and _rule_holds(rule, row, version):
                best, best_score = id_, score
    return best


def _rule_holds(rule: dict[str, Any], row: dict[str, Any], version: str) -> bool:
    config = rule.get("framework_config")
    if config and row.get("framework_config") != config:
        return False
    ids = rule.get("id_prefix")
    if ids and not row["id"].startswith(tuple(ids)):
        return False
    low, high = rule.get("transformers_min"), rule.get("transformers_max")
    if not low and not high:
        return True
    number = _version(version or UNDATED)
    return (not low or number >= _version(low)) and (not high or number < _version(high))


def _transformers(row: dict[str, Any]) -> str:
    """The version of Transformers that the row states, or nothing."""
    versions: dict[str, Any] = row.get("versions") or {}
    return str(versions.get("transformers") or "")


def _version(text: str) -> tuple[int, int]:
    major, minor = [*text.split("."), "0", "0"][:2]
    if not (major.isdecimal() and minor.isdecimal()):
        return _version(UNDATED)
    return int(major), int(minor)


def _quantization(row: dict[str, Any], assumptions: list[str]) -> Any:
    published = str(row.get("quantization") or "none")
    if published.startswith("nf4 ("):
        assumptions.append("quantization nf4: the published row does not say which 4-bit variant")
        return "nf4"
    if published not in _QUANTIZATIONS:
        raise UnsupportedError.of(f"quantization {published}", "not modelled", ("nf4",))
    return published


def _technique(row: dict[str, Any]) -> str:
    technique = str(row["technique"])
    return {"adapter": "bottleneck" if "swift" in row["framework"] else "adapter"}.get(
        technique, technique
    )


def _weights_dtype(precision: dict[str, Any]) -> Any:
    found = precision.get("weights") or precision.get("compute") or "bf16"
    if found not in _DTYPES:
        raise UnsupportedError.of(f"weights dtype {found!r}", "not modelled", sorted(_DTYPES))
    return found


def _autocast(precision: dict[str, Any]) -> Any:
    if not precision.get("autocast"):
        wide = precision.get("weights") == "fp32"
        half = precision.get("compute") in ("bf16", "fp16", "fp8")
        if not (wide and half):
            return "none"
    return "fp16" if precision.get("compute") == "fp16" else "bf16"


def _adapter_dtype(rule: str, precision: dict[str, Any]) -> Any:
    return "fp32" if rule == "fp32" else precision.get("weights") or "bf16"


def _optim(row: dict[str, Any], assumptions: list[str]) -> str:
    published = row.get("optimizer")
    if published is None:
        quantized = row.get("quantization") not in (None, "none")
        found = "paged_adamw_32bit" if quantized else "adamw_torch"
        assumptions.append(f"optim {found}: the published row names none")
        return found
    name = str(published).lower()
    if name in _OPTIM_NAMES:
        return name
    if name not in _OPTIMIZERS:
        raise UnsupportedError.of(f"optimizer {published!r}", "not modelled", ())
    return _OPTIMIZERS[name]


def _checkpointing(row: dict[str, Any]) -> Any:
    value = row.get("gradient_checkpointing")
    if isinstance(value, str):
        return "selective"
    return "full" if value else "none"


def _attention(row: dict[str, Any]) -> Any:
    value = str(row.get("attn_implementation") or "sdpa")
    if value.startswith("flash"):
        return "flash_attention_2"
    return "eager" if value.startswith("eager") else "sdpa"


def _dropout(row: dict[str, Any], defaults: dict[str, Any]) -> float:
    if row.get("lora_dropout") is not None:
        return float(row["lora_dropout"])
    if row.get("peft_config"):
        return float(row["peft_config"].get("lora_dropout") or 0.0)
    return float(defaults.get("lora_dropout") or 0.0)


def _targets(published: Any) -> tuple[str, ...]:
    return (published,) if isinstance(published, str) else tuple(published or ())


def _kernels(row: dict[str, Any]) -> dict[str, Any]:
    """Fused kernels, by the variant's name (foak, liger) or the program's."""
    config = row.get("framework_config") or ""
    foak, unsloth = "foak" in config, "unsloth" in row["framework"]
    liger = "liger" in config or "liger" in row["framework"]
    return {
        "loss_kernel": "fused_linear" if liger else "inplace" if foak or unsloth else "torch",
        "fused_norm": foak or unsloth,
        "fused_mlp": unsloth,
        "fused_lora": foak and row.get("quantization") not in (None, "none"),
    }


def _strategy(row: dict[str, Any]) -> tuple[str, str | None]:
    published = str(row.get("strategy") or "none")
    if published in _STRATEGIES:
        return published, None
    reason = f"the parallel layout is published as '{published}' only"
    return ("fsdp" if (row.get("num_gpus") or 1) > 1 else "none"), reason

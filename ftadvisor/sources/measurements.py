"""Measurement files to records, and their spellings to ftadvisor's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import DataFileError, UnsupportedError
from ftadvisor.schema.measurement import Measurement, Situation
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.field_checks import check_row, number, record_kinds
from ftadvisor.sources.lengths import published_lengths
from ftadvisor.sources.measurement_rows import read_rows
from ftadvisor.sources.spellings import (
    ALL_LINEAR,
    ASSUMED,
    DTYPES,
    OPTIMIZERS,
    QUANTIZATIONS,
    REFUSED,
    STRATEGIES,
    TECHNIQUES,
)
from ftadvisor.sources.trainers import find_trainer, trainer_rows

_WORDS = ("gradient_checkpointing", "sequence_fill", "attn_implementation")
USUAL_LAUNCH_SECONDS = 5e-6
"""Host time of one of many queued in-place additions, from Python, on a current server's CPU; from
memory, and only the ratio to it matters."""
_LENGTHS = ("longest_length", "typical_length")
"""Of joined or drawn batches: no whole numbers."""
UNDATED = "4.48"
"""Transformers' version where a row states none: that of the largest source."""


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
    return [m for row in read_rows(str(path), text) for m in measurements_of(row)]


def measurements_of(row: dict[str, Any]) -> list[Measurement]:
    """A row that states reserved memory beside another metric counts for both."""
    found = [_measurement(row)]
    reserved = row.get("memory_gib_reserved")
    if reserved is not None:
        also = {"id": f"{row['id']} reserved", "memory_gib": reserved, "memory_metric": "reserved"}
        found.append(_measurement({**row, **also, "micro_step_seconds": None}))
    return found


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
    assumptions: list[str] = []
    row = _in_our_words(m.row, assumptions)
    trainer = _stand_in(row, assumptions) if stand_in else _trainer(row, assumptions)
    if row.get("micro_batch_size") is None or row.get("max_length") is None:
        raise UnsupportedError.of(m.id, "its micro-batch size or length is not published", ())
    precision = row["precision"]
    rank = int(float(row.get("lora_r") or 0))
    lengths = published_lengths(row)
    assumptions.extend(lengths.assumptions)
    strategy, unsupported = _strategy(row)
    settings = Settings(
        technique=_technique(row),
        objective=row.get("objective") or ("clm" if row["technique"] == "full" else "sft"),
        micro_batch_size=row["micro_batch_size"],
        gradient_accumulation_steps=row.get("gradient_accumulation_steps") or 1,
        max_length=row["max_length"],
        packing=_packing(row),
        mean_length=lengths.mean,
        mean_padded_length=lengths.mean_padded,
        longest_length=lengths.longest,
        typical_length=lengths.typical,
        weights_dtype=_weights_dtype(precision),
        autocast=_autocast(precision),
        fp8=precision.get("compute") == "fp8",
        adapter_dtype=_adapter_dtype(row, trainer),
        quantization=row["quantization"],
        quantization_group_size=row.get("quantization_group_size") or 128,
        optim=_optim(row, assumptions),
        gradient_checkpointing=_checkpointing(row),
        attn_implementation=_attention(row),
        lora_r=rank,
        lora_alpha=float(row.get("lora_alpha") or 2 * rank),
        lora_dropout=_dropout(row, trainer.defaults),
        lora_target_modules=_targets(row.get("lora_target_modules")),
        peft_config=row.get("peft_config") or {},
        **_kernels(row, trainer),
        **({"max_target_length": row["max_target_length"]} if row.get("max_target_length") else {}),
        num_gpus=row.get("num_gpus") or 1,
        strategy=strategy,  # pyright: ignore[reportArgumentType]
        offload_optimizer=bool(row.get("cpu_offload")),
        offload_params=bool(row.get("cpu_offload")),
    )
    settings = replace(settings, **_stated(row))
    slowness = (row.get("host_launch_seconds") or USUAL_LAUNCH_SECONDS) / USUAL_LAUNCH_SECONDS
    return Situation(settings, trainer, tuple(assumptions), slowness, unsupported)


def _stated(row: dict[str, Any]) -> dict[str, Any]:
    """The settings that ftadvisor recorded itself, which nothing has to be read out of."""
    kinds = record_kinds(Settings) | dict.fromkeys(_LENGTHS, number())
    found = check_row(
        "measurements", row["id"], row.get("settings") or {}, {}, kinds, inside="settings"
    )
    return {
        name: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for name, v in found.items()
    }


def _trainer(row: dict[str, Any], assumptions: list[str]) -> Trainer:
    """The row's own trainer, else a stand-in."""
    found = _trainer_id(row)
    on_cpu = row.get("gpu") == "cpu"
    return find_trainer(found, on_cpu=on_cpu) if found is not None else _stand_in(row, assumptions)


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
    """The trainer whose `published_as` matches the row most closely.

    A longer name is closer than a shorter one; for the same name, rows named by their ids come
    before a variant of the program, and that before a range of versions.
    """
    best, best_score = None, (-1, False, False, False)
    for id_, trainer in trainer_rows().items():
        for rule in trainer["published_as"]:
            score = (
                len(rule["framework"]),
                "id_prefix" in rule,
                "framework_config" in rule,
                "transformers_min" in rule or "transformers_max" in rule,
            )
            if score > best_score and _rule_holds(rule, row):
                best, best_score = id_, score
    return best


def _rule_holds(rule: dict[str, Any], row: dict[str, Any]) -> bool:
    name, start = row["framework"].strip().casefold(), rule["framework"].casefold()
    # "trl 0.12" begins with trl, "trlx" does not.
    if not name.startswith(start) or name[len(start) : len(start) + 1].isalnum():
        return False
    config = rule.get("framework_config")
    if config and row.get("framework_config") != config:
        return False
    ids = rule.get("id_prefix")
    if ids and not row["id"].startswith(tuple(ids)):
        return False
    low, high = rule.get("transformers_min"), rule.get("transformers_max")
    if not low and not high:
        return True
    number = _version(_transformers(row) or UNDATED)
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


def _in_our_words(row: dict[str, Any], assumptions: list[str]) -> dict[str, Any]:
    """The row with its quantization, technique, dtypes and words as ftadvisor spells them."""
    precision: dict[str, Any] = row["precision"]
    words = {key: row[key].lower() for key in _WORDS if isinstance(row.get(key), str)}
    dtypes = {key: DTYPES.get(str(precision.get(key)).lower()) for key in ("weights", "compute")}
    return {
        **row,
        **words,
        "quantization": _quantization(row, assumptions),
        "technique": _spelling("technique", str(row["technique"]), TECHNIQUES, assumptions),
        "precision": precision | {key: name for key, name in dtypes.items() if name},
    }


def _spelling(what: str, published: str, table: dict[str, str], assumptions: list[str]) -> str:
    """What a published name means; itself in lower case where the table has it not."""
    name = published.strip().lower()
    if name in REFUSED:
        raise UnsupportedError.of(f"{what} {published}", REFUSED[name], ())
    if name in ASSUMED:
        assumptions.append(f"{what} {table[name]}: published as {published}, {ASSUMED[name]}")
    return table.get(name, name)


def _quantization(row: dict[str, Any], assumptions: list[str]) -> str:
    published = str(row.get("quantization") or "none")
    if published.startswith("nf4 ("):
        assumptions.append("quantization nf4: the published row does not say which 4-bit variant")
        return "nf4"
    found = _spelling("quantization", published, QUANTIZATIONS, assumptions)
    if found not in QUANTIZATIONS.values():
        raise UnsupportedError.of(f"quantization {published}", "not modelled", ("nf4",))
    return found


def _technique(row: dict[str, Any]) -> str:
    technique: str = row["technique"]
    return {"adapter": "bottleneck" if "swift" in row["framework"] else "adapter"}.get(
        technique, technique
    )


def _weights_dtype(precision: dict[str, Any]) -> Any:
    found = precision.get("weights") or precision.get("compute") or "bf16"
    if found not in DTYPES.values():
        known = sorted(set(DTYPES.values()))
        raise UnsupportedError.of(f"weights dtype {found!r}", "not modelled", known)
    return found


def _autocast(precision: dict[str, Any]) -> Any:
    if not precision.get("autocast"):
        wide = precision.get("weights") == "fp32"
        half = precision.get("compute") in ("bf16", "fp16", "fp8")
        if not (wide and half):
            return "none"
    return "fp16" if precision.get("compute") == "fp16" else "bf16"


def _adapter_dtype(row: dict[str, Any], trainer: Trainer) -> Any:
    if row["quantization"] != "none" and trainer.kbit_adapters_half:
        return "bf16"
    wide = trainer.adapter_dtype == "fp32"
    return "fp32" if wide else row["precision"].get("weights") or "bf16"


def _optim(row: dict[str, Any], assumptions: list[str]) -> str:
    published = row.get("optimizer")
    if published is None:
        quantized = row["quantization"] != "none"
        found = "paged_adamw_32bit" if quantized else "adamw_torch"
        assumptions.append(f"optim {found}: the published row names none")
        return found
    name = str(published).strip().lower()
    if name not in OPTIMIZERS:
        raise UnsupportedError.of(f"optimizer {published!r}", "not modelled", ())
    found = OPTIMIZERS[name]
    if found == "galore_adamw" and "quantize" in str(row.get("notes")):
        # ms-swift's galore_quantize: 8-bit states.
        return "galore_adamw_8bit"
    return found


def _checkpointing(row: dict[str, Any]) -> Any:
    value = row.get("gradient_checkpointing")
    if isinstance(value, str):
        return value if value in ("full", "none") else "selective"
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
    names = (published,) if isinstance(published, str) else tuple(published or ())
    everything = len(names) == 1 and names[0].lower() in ALL_LINEAR
    return ("all-linear",) if everything else names


def _packing(row: dict[str, Any]) -> bool:
    """Whether samples share a row; where the source does not say, full rows are taken to."""
    stated = row.get("packing")
    return row.get("sequence_fill") in ("full", "padding-free") if stated is None else bool(stated)


def _kernels(row: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Fused kernels, by the variant's name (foak, liger) or the program's."""
    config = row.get("framework_config") or ""
    foak, unsloth = "foak" in config, "unsloth" in row["framework"]
    liger = "liger" in config or "liger" in row["framework"]
    usual = trainer.defaults.get("loss_kernel", "torch")
    return {
        "loss_kernel": "fused_linear" if liger else "inplace" if foak or unsloth else usual,
        "fused_norm": foak or unsloth,
        "fused_mlp": unsloth,
        "fused_lora": foak and row["quantization"] != "none",
    }


def _strategy(row: dict[str, Any]) -> tuple[str, str | None]:
    published = str(row.get("strategy") or "none")
    name = published.strip().lower().replace("_", "-")
    if name in STRATEGIES:
        return STRATEGIES[name], None
    reason = f"the parallel layout is published as '{published}' only"
    if name in REFUSED:
        reason = f"strategy {published}: {REFUSED[name]}"
    return ("fsdp" if (row.get("num_gpus") or 1) > 1 else "none"), reason

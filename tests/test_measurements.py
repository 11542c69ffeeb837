"""Reading measurement files: every bad line named, every published spelling mapped or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftadvisor.calibration.cases import case_of
from ftadvisor.errors import DataFileError, InvalidSettingError, UnsupportedError
from ftadvisor.estimation.phases import cublas_bytes
from ftadvisor.estimation.states import OPTIMIZERS
from ftadvisor.schema.measurement import Measurement
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.datasets import CHARACTERS_PER_TOKEN, read_workload
from ftadvisor.sources.measurement_rows import MOST_DETAILED, OBJECTS, TEXTS
from ftadvisor.sources.measurements import read_measurements, situation
from ftadvisor.units import GIB
from ftadvisor.validation.rows import row_of

GOOD: dict[str, Any] = {
    "id": "mine-1",
    "source": "mine",
    "grade": "A",
    "framework": "trl",
    "model": "llama-7b",
    "technique": "lora",
    "lora_r": 8,
    "lora_alpha": "16.0",
    "gpu": "rtx-4090",
    "precision": {"weights": "bf16", "compute": "bf16", "autocast": True},
    "optimizer": "AdamW (torch)",
    "micro_batch_size": 2,
    "max_length": 1024,
    "sequence_fill": "full",
    "gradient_checkpointing": True,
    "memory_gib": 17.5,
    "memory_metric": "reserved",
    "memory_future": {"unknown fields": "are kept"},
}


def file_of(tmp_path: Path, *lines: str | dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def one(tmp_path: Path, **changed: Any) -> Measurement:
    return read_measurements(file_of(tmp_path, {**GOOD, **changed}))[0]


def test_a_good_row_keeps_what_was_published(tmp_path: Path):
    m = one(tmp_path)
    assert (m.id, m.memory_gib, m.oom, m.lower_bound) == ("mine-1", 17.5, False, False)
    assert m.row["memory_future"] == GOOD["memory_future"]
    settings = situation(m).settings
    assert (settings.lora_r, settings.lora_alpha, settings.optim) == (8, 16, "adamw_torch")
    assert (settings.weights_dtype, settings.autocast) == ("bf16", "bf16")


@pytest.mark.parametrize(
    ("changed", "field", "must"),
    [
        ({"gpu": None}, "gpu", "is missing"),
        ({"model": ""}, "model", "is missing"),
        ({"grade": "D"}, "grade", "A, B or C"),
        ({"memory_gib": -1}, "memory_gib", "a positive number"),
        ({"memory_gib": "17.5"}, "memory_gib", "a positive number"),
        ({"memory_gib": True}, "memory_gib", "a positive number"),
        ({"micro_step_seconds": float("nan")}, "micro_step_seconds", "a positive number"),
        ({"max_length": float("inf")}, "max_length", "a positive number"),
        ({"max_length": 10**400}, "max_length", "a positive number"),
        ({"micro_batch_size": 1.5}, "micro_batch_size", "a whole number"),
        ({"num_gpus": 0}, "num_gpus", "a whole number"),
        ({"lora_r": -8}, "lora_r", "a number"),
        ({"lora_alpha": "sixteen"}, "lora_alpha", "a number"),
        ({"oom": "yes"}, "oom", "true, false or null"),
        ({"precision": "bf16"}, "precision", "an object"),
        ({"framework": 7}, "framework", "text"),
        ({"memory_metric": "peak"}, "memory_metric", "allocated, reserved"),
        ({"lora_target_modules": [1]}, "lora_target_modules", "a list of texts"),
        ({"quantization_group_size": "x"}, "quantization_group_size", "a whole number from 1"),
        ({"length_statistics": {"mean": "long"}}, "length_statistics", "an object of numbers"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing", "true, false, null"),
        ({"gradient_checkpointing": "x"}, "gradient_checkpointing", "selective or full"),
        ({"sequence_fill": "x"}, "sequence_fill", "full, padded-to-longest, padding-free"),
        ({"sequence_fill": 1}, "sequence_fill", "padding-free or null"),
        ({"attn_implementation": "x"}, "attn_implementation", "eager, sdpa, flash"),
        ({"lora_r": 0}, "lora_r", "a number from 1 on"),
        ({"lora_r": "0", "technique": "DoRA"}, "lora_r", "a number from 1 on"),
    ],
)
def test_a_bad_field_is_named_with_its_line(
    tmp_path: Path, changed: dict[str, Any], field: str, must: str
):
    path = file_of(tmp_path, GOOD, "", {**GOOD, **changed})
    with pytest.raises(DataFileError) as caught:
        read_measurements(path)
    assert f"line 3, field '{field}'" in str(caught.value)
    assert must in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", "7", '"text"', "null", "[" * 100_000])
def test_what_is_no_object_is_named_with_its_line(tmp_path: Path, line: str):
    with pytest.raises(DataFileError, match="line 2"):
        read_measurements(file_of(tmp_path, GOOD, line))


def test_all_bad_lines_stand_in_one_error(tmp_path: Path):
    bad = ["{", {**GOOD, "gpu": None}, {**GOOD, "memory_gib": 0}]
    with pytest.raises(DataFileError) as caught:
        read_measurements(file_of(tmp_path, GOOD, *bad, GOOD))
    message = str(caught.value)
    assert "3 bad lines" in message
    for line in ("line 2:", "line 3, field 'gpu'", "line 4, field 'memory_gib'"):
        assert line in message
    assert "line 5" not in message


def test_hundreds_of_bad_lines_are_all_numbered_but_not_all_described(tmp_path: Path):
    with pytest.raises(DataFileError) as caught:
        read_measurements(file_of(tmp_path, *["{"] * 300))
    message = str(caught.value)
    assert message.count("is not JSON") == MOST_DETAILED
    assert f"and lines {MOST_DETAILED + 1}, " in message
    assert ", 300" in message


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path):
    line = json.dumps({**GOOD, "notes": "one\u2028two"}, ensure_ascii=False)
    assert read_measurements(file_of(tmp_path, line))[0].row["notes"] == "one\u2028two"


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_a_row_says_so(tmp_path: Path, text: str):
    with pytest.raises(DataFileError, match="has no row"):
        read_measurements(file_of(tmp_path, text))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    with pytest.raises(DataFileError, match="No such file"):
        read_measurements(tmp_path / "absent.jsonl")
    with pytest.raises(DataFileError, match="directory"):
        read_measurements(tmp_path)
    binary = tmp_path / "rows.jsonl"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(DataFileError, match="cannot be read"):
        read_measurements(binary)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"micro_batch_size": None}, "micro-batch size or length is not published"),
        ({"quantization": "aqlm-2bit"}, "aqlm-2bit"),
        ({"optimizer": "Shampoo"}, "Shampoo"),
        ({"precision": {"weights": "int3"}}, "int3"),
    ],
)
def test_what_no_setting_expresses_is_refused_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], reason: str
):
    with pytest.raises(UnsupportedError, match=reason):
        situation(one(tmp_path, **changed))


def setting(tmp_path: Path, name: str, **changed: Any) -> tuple[object, str]:
    """One of a row's settings, and what was assumed."""
    found = situation(one(tmp_path, **changed))
    return getattr(found.settings, name), "; ".join(found.assumptions)


@pytest.mark.parametrize(
    ("field", "published", "name", "value", "assumed"),
    [
        ("optimizer", "AdamW_HF", "optim", "adamw_torch", ""),
        ("optimizer", "adamw_apex_fused", "optim", "adamw_torch_fused", ""),
        ("optimizer", "FusedAdam", "optim", "adamw_torch_fused", ""),
        ("optimizer", "AdamW8bit", "optim", "adamw_bnb_8bit", ""),
        ("optimizer", "adamw_8bit", "optim", "adamw_bnb_8bit", ""),
        ("optimizer", "PagedAdamW8bit", "optim", "paged_adamw_8bit", ""),
        ("optimizer", "Lion", "optim", "lion_32bit", ""),
        ("quantization", "4bit", "quantization", "nf4", "which 4-bit variant"),
        ("quantization", "bnb-nf4", "quantization", "nf4", ""),
        ("quantization", "INT4", "quantization", "nf4", "which 4-bit variant"),
        ("quantization", "fp4", "quantization", "nf4", "as many bytes"),
        ("quantization", "gptq", "quantization", "gptq-int4", "GPTQ's usual width"),
        ("quantization", "AWQ", "quantization", "awq-int4", "AWQ's usual width"),
        ("quantization", "8bit", "quantization", "int8", ""),
        ("technique", "LoRA", "technique", "lora", ""),
        ("technique", "QLoRA", "technique", "qlora", ""),
        ("technique", "Full", "objective", "clm", ""),
        ("technique", "PiSSA", "technique", "lora", "another start"),
        ("technique", "LoRA+", "technique", "lora", "two learning rates"),
        ("strategy", "FSDP", "strategy", "fsdp", ""),
        ("strategy", "fsdp2", "strategy", "fsdp", ""),
        ("strategy", "ZeRO-3", "strategy", "zero3", ""),
        ("strategy", "zero-3", "strategy", "zero3", ""),
        ("strategy", "DP", "strategy", "ddp", ""),
        ("precision", {"weights": "bfloat16"}, "weights_dtype", "bf16", ""),
        ("precision", {"weights": "float16"}, "weights_dtype", "fp16", ""),
        ("precision", {"weights": "float32", "compute": "bfloat16"}, "autocast", "bf16", ""),
        ("lora_target_modules", "ALL", "lora_target_modules", ("all-linear",), ""),
        ("lora_target_modules", ["all"], "lora_target_modules", ("all-linear",), ""),
        ("gradient_checkpointing", "full", "gradient_checkpointing", "full", ""),
        ("gradient_checkpointing", "Selective op", "gradient_checkpointing", "selective", ""),
        ("attn_implementation", "Flash2", "attn_implementation", "flash_attention_2", ""),
        ("sequence_fill", "Padding-Free", "packing", True, ""),
    ],
)
def test_spellings_of_others(
    tmp_path: Path, field: str, published: Any, name: str, value: object, assumed: str
):
    found, said = setting(tmp_path, name, **{"num_gpus": 2, field: published})
    assert found == value
    assert assumed in said
    assert (f"published as {published}" in said) == bool(assumed)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_every_optimizer_may_be_spelt_as_transformers_does(tmp_path: Path, optim: str):
    found, _ = setting(tmp_path, "optim", optimizer=optim)
    assert OPTIMIZERS[str(found)] == OPTIMIZERS[optim]


@pytest.mark.parametrize("technique", ["QDoRA", "qdora"])
def test_a_technique_that_is_not_described_is_refused_by_name(tmp_path: Path, technique: str):
    with pytest.raises(UnsupportedError, match=technique):
        situation(one(tmp_path, technique=technique))


def test_hybrid_sharding_is_refused_by_name(tmp_path: Path):
    found = situation(one(tmp_path, strategy="HSDP", num_gpus=8))
    assert "HSDP: hybrid sharding" in str(found.memory_unsupported)


@pytest.mark.parametrize(
    ("framework", "version", "trainer"),
    [
        ("TRL", None, "trl-2024"),
        ("trl 0.12", None, "trl-2024"),
        ("TRL SFTTrainer", "4.47", "trl-2024"),
        ("trl", "5.1.0", "trl-1.16"),
        ("transformers", "4.40.2", "transformers-4.40"),
        ("HF Trainer", None, "transformers-4.48"),
        ("transformers Trainer", "4.51", "transformers-4.48"),
        ("Transformers", "5.0", "transformers-5"),
        ("trlx", None, "transformers-4.48"),
    ],
)
def test_the_trainer_follows_from_the_programs_name_and_version(
    tmp_path: Path, framework: str, version: str | None, trainer: str
):
    versions = {"transformers": version} if version else {}
    found = situation(one(tmp_path, framework=framework, versions=versions))
    assert (found.trainer.id, found.trainer.stand_in) == (trainer, framework == "trlx")
    # A known name alone is no measurement.
    measured = ("transformers-4.40", "transformers-5", "trl-1.16")
    assert found.trainer.measured == (trainer in measured)


def test_a_byte_order_mark_begins_no_row(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_measurements(path)[0].id == GOOD["id"]


@pytest.mark.parametrize("config", [{"r": "x"}, {"r": [1]}, {"r": {}}])
def test_a_peft_config_of_wrong_kinds_makes_a_row_unsupported(
    tmp_path: Path, config: dict[str, Any]
):
    row = row_of(one(tmp_path, technique="loha", peft_config=config))
    assert "peft_config" in str(row.unsupported)


def test_what_is_assumed_is_said(tmp_path: Path):
    found = situation(one(tmp_path, framework="my own loop", optimizer=None))
    assert not found.trainer.measured
    assert any("my own loop is not known" in said for said in found.assumptions)
    assert any(said.startswith("optim ") for said in found.assumptions)


@pytest.mark.parametrize("version", ["main", "4.x", "", "4.46.0.dev0", 5, [4]])
def test_versions_that_are_no_numbers_do_not_stop_a_row(tmp_path: Path, version: object):
    assert situation(one(tmp_path, framework="?", versions={"transformers": version}))


def test_layouts_that_are_only_named_are_not_scored(tmp_path: Path):
    found = situation(one(tmp_path, strategy="device-map", num_gpus=2))
    assert found.memory_unsupported is not None
    assert "device-map" in found.memory_unsupported


def test_every_row_of_the_repository_is_read_and_has_a_known_trainer_or_says_so():
    rows = read_measurements()
    assert len(rows) > 700
    assert len({m.id for m in rows}) == len(rows)
    for m in rows:
        try:
            found = situation(m)
        except UnsupportedError:
            continue
        if not found.trainer.measured:
            assert found.assumptions


def test_the_format_names_every_field_that_is_read():
    text = (data_dir() / "measurements" / "FORMAT.md").read_text()
    missing = [name for name in (*TEXTS, *OBJECTS, *GOOD) if f"`{name}`" not in text]
    assert missing == ["memory_future"]


def test_a_dataset_of_chats_is_counted_in_characters(tmp_path: Path):
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "assistant", "content": "x" * size}], "id": "not text"}
        for size in (400, 1200)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = read_workload(path, 2.0)
    assert found.num_examples == 2
    assert found.mean_tokens == 800 / CHARACTERS_PER_TOKEN
    assert found.longest_tokens == 1200 / CHARACTERS_PER_TOKEN
    assert found.num_tokens == 2 * 1600 / CHARACTERS_PER_TOKEN
    assert found.token_error > 0


@pytest.mark.parametrize(
    ("name", "text", "examples"),
    [
        ("a.json", '[{"text": "hello"}, {"text": "worlds"}]', 2),
        ("a.csv", "text,label\nhello,1\nworlds,0\n", 2),
        ("a.tsv", "text\tlabel\nhello\t1\n", 1),
        ("a.txt", "hello\n\nworlds\n", 2),
        ("a.csv", "text\n" + 200_000 * "x", 1),
    ],
)
def test_other_formats_of_datasets(tmp_path: Path, name: str, text: str, examples: int):
    path = tmp_path / name
    path.write_text(text)
    assert read_workload(path, 1.0).num_examples == examples


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("absent.jsonl", None, InvalidSettingError, "is not a file"),
        ("a.xlsx", b"PK", InvalidSettingError, "xlsx"),
        ("a.jsonl", b"{", DataFileError, "line 1.* is not JSON"),
        ("a.jsonl", b"\n", DataFileError, "no row with text"),
        ("a.json", b"[" * 100_000, DataFileError, "nested too deeply"),
        ("a.txt", b"\xff", DataFileError, "not UTF-8"),
    ],
)
def test_a_bad_dataset_is_one_clear_message(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], says: str
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        read_workload(tmp_path / name, 1.0)


def test_workspaces_of_cublas_follow_the_card():
    mib = 1 << 20
    assert cublas_bytes("9.0") == cublas_bytes("12.0") == 2 * 32 * mib
    assert cublas_bytes("8.9") == cublas_bytes("") == 2 * 8_519_680


@pytest.mark.parametrize(
    ("start", "within"),
    [
        ("04-", 0.0025), ("09-", 0.005), ("14-", 0.03), ("22-", 0.015), ("35-", 0.015),
        ("47-", 0.01), ("48-", 0.01), ("52-", 0.005), ("60-", 0.005),
    ],
)  # fmt: skip
def test_allocated_memory_of_an_h100s_rows(start: str, within: float):
    # One row for each cause that these rows taught; a formula that is off by a tenth shows.
    (m,) = (
        m
        for m in read_measurements()
        if m.source.startswith("ftadvisor H100") and m.id.startswith(start)
        and m.memory_metric == "allocated"
    )  # fmt: skip
    assert m.memory_gib is not None
    assert case_of(m).allocated_bytes / GIB == pytest.approx(m.memory_gib, rel=within)

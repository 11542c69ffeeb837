"""Slices really train, and the whole model follows from them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftadvisor.cli.entry import main
from ftadvisor.errors import UnsupportedError
from ftadvisor.execution import stack
from ftadvisor.execution.arguments import as_given
from ftadvisor.execution.probing.collectives import collectives, link_bytes_per_second
from ftadvisor.execution.probing.extrapolation import extrapolated, pooled
from ftadvisor.render.probe import probe_document
from ftadvisor.render.terminal import print_document
from ftadvisor.schema.probe import Slice
from ftadvisor.schema.settings import Settings

SCRIPT = Path(__file__).parent.parent / "scripts" / "probe_accuracy.py"
SLICES = Path(__file__).parent.parent / "data" / "measurements" / "slices" / "h100.jsonl"


def part(layers: int, seconds: float, **peaks: int) -> Slice:
    return Slice(layers, 1, 8, "done", seconds, seconds, 0.0, 5, peaks)


def test_the_fullest_part_changes_with_depth():
    slices = (part(2, 1.0, loss=100, optimizer=40), part(4, 1.5, loss=110, optimizer=80))
    assert extrapolated(slices, 4).peak_phase == "loss"
    deep = extrapolated(slices, 12)
    assert deep.peak_phase == "optimizer"
    assert deep.allocated_bytes == 240
    assert deep.step_seconds == pytest.approx(3.5)


def test_one_slice_is_the_whole_model():
    found = extrapolated((part(2, 1.0, loss=100),), 2)
    assert (found.step_seconds, found.allocated_bytes) == (1.0, 100)
    assert found.layer_seconds is None


def test_no_time_follows_where_fewer_layers_took_longer():
    """Other processes: on a line through both a deep model's step would be negative."""
    found = extrapolated((part(2, 3.4, loss=100), part(4, 0.7, loss=110)), 8)
    assert found.step_seconds is None
    assert found.layer_seconds is None
    assert found.allocated_bytes == 130


def test_depths_compare_within_a_round():
    """The machine is half as fast from the deep slice of the second round on: the shares of the
    rounds are 0.6, 0.3 and 0.6, and the deep slice took 5, 10 and 10 s."""
    rounds = [(3.0, 5.0), (3.0, 10.0), (6.0, 10.0)]
    few, more = pooled([(part(2, a, loss=100), part(4, b, loss=110)) for a, b in rounds])
    assert (few.step_seconds, more.step_seconds) == (6.0, 10.0)
    assert (few.allocated_bytes, few.num_steps) == (100, 15)
    # No step differs from its round's others: the standard deviation of 5, 10, 10 over 10.
    assert more.spread == pytest.approx(0.2357, abs=1e-4)


def test_one_round_stays_as_it_is():
    slices = (part(2, 1.0, loss=100), part(4, 1.5, loss=110)._replace(spread=0.04))
    assert pooled([slices]) == slices


def test_slices_that_ran_out_of_memory_do_not_count():
    slices = (Slice(4, 1, 8, "oom"), part(1, 1.0, loss=10), part(2, 2.0, loss=15))
    assert extrapolated(slices, 8).allocated_bytes == 45


def test_measured_slices_give_measured_memory():
    """Of one H100: two and four layers of 20 settings against the whole models."""
    full = {row["id"]: row for row in rows_of(SLICES.parent.parent / "h100.jsonl")}
    parts: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows_of(SLICES):
        parts.setdefault(row["id"].rsplit("-layers", 1)[0], {})[row["num_hidden_layers"]] = row
    errors: list[float] = []
    for name, both in parts.items():
        whole = full[name]
        slices = tuple(
            part(n, both[n]["micro_step_seconds"], step=round(both[n]["memory_gib"] * 2**30))
            for n in (2, 4)
        )
        found = extrapolated(slices, layers_of(whole["model"]))
        errors.append(abs(found.allocated_bytes / (whole["memory_gib"] * 2**30) - 1))
    assert len(errors) >= 20
    assert sorted(errors)[len(errors) // 2] < 0.001
    # The total alone tells no parts apart; the worst has another fullest part at its depth.
    assert max(errors) < 0.015


def test_the_slower_collective_at_the_largest_size_is_the_link():
    rows = [
        {"what": "all_reduce", "mib": 16, "bytes_per_second": 1.0},
        {"what": "all_reduce", "mib": 256, "bytes_per_second": 3.0},
        {"what": "all_gather", "mib": 256, "bytes_per_second": 2.0},
    ]
    assert link_bytes_per_second(rows) == 2.0


def test_processes_that_were_started_end_where_one_cannot_be(monkeypatch: pytest.MonkeyPatch):
    started: list[Any] = []
    real = subprocess.Popen

    def popen(words: list[str], **how: Any) -> Any:
        if started:
            raise OSError("no more processes")
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **how))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    try:
        with pytest.raises(OSError, match="no more processes"):
            collectives(2)
        assert started[0].poll() is not None
    finally:
        started[0].kill()
        started[0].wait()


@pytest.mark.slow
@pytest.mark.parametrize("room", ["execution", "simulation"])
def test_bitsandbytes_says_nothing_as_it_is_imported(room: str):
    words = f"from ftadvisor.{room} import stack; stack.bitsandbytes"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "gemm_4bit_forward" not in done.stderr


@pytest.mark.slow
def test_two_processes_measure_what_they_exchange():
    """By gloo on this CPU; a GPU's by the same road, by NCCL."""
    rows = collectives(2, backend="gloo", sizes_mib=(1, 8))
    assert [(row["what"], row["mib"]) for row in rows] == [
        ("all_reduce", 1), ("all_gather", 1), ("all_reduce", 8), ("all_gather", 8),
    ]  # fmt: skip
    assert all(1e6 < row["bytes_per_second"] < 1e12 for row in rows)
    assert all(row["gpus"] == 2 for row in rows)
    with pytest.raises(ValueError, match="failed in 2 of 2"):
        collectives(2, backend="nothing")


@pytest.mark.slow
def test_a_machine_without_its_link_is_probed_all_the_same(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")
    from ftadvisor.execution.probing import machine

    assert machine._link(1) == {}  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(machine, "collectives", partial(collectives, backend="nothing"))
    found = machine._link(2)  # pyright: ignore[reportPrivateUsage]
    assert "link_bytes_per_second" not in found
    said = machine.warnings_of({"device": "cpu", "spread": 0.0, **found})
    assert any("link between GPUs was not measured: nothing failed" in line for line in said)


def test_another_job_is_reported_before_a_plan_is_probed(monkeypatch: pytest.MonkeyPatch):
    """A plan's probe looked at the time of steps alone: an even load slows all of them alike."""
    from ftadvisor.api.probing import _before as before  # pyright: ignore[reportPrivateUsage]
    from ftadvisor.execution.device import Device
    from ftadvisor.execution.probing import machine

    monkeypatch.setattr(machine, "_memory", lambda _: {"used_bytes_at_start": 3 * 2**30})
    gpu = Device("cuda", "NVIDIA L40S", 2**35, "cuda:0", 1)
    assert [said for said in before(gpu) if "other processes use 3,072 MiB" in said]
    monkeypatch.setattr(machine, "_memory", lambda _: {"used_bytes_at_start": 0})
    assert not [said for said in before(gpu) if "other processes" in said]


def test_without_torch_it_says_which_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(vars(stack), "torch", raising=False)
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one"}\n' * 20)
    model = ["--model", "llama-3.2-1b"]
    benchmark = ["benchmark", *model, "--dataset", str(data), "--techniques", "lora", "full"]
    for words in (["probe"], ["probe", *model, "--technique", "lora"]):
        assert main(words) == 2
        assert "ftadvisor[run]" in capsys.readouterr().err
    assert main([*benchmark, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert ["ftadvisor[run]" in row["problem"] for row in rows] == [True, True]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def layers_of(model: str) -> int:
    from ftadvisor.sources.models import find_model

    spec = find_model(model).spec
    layers = sum(block.num_layers for block in spec.blocks)
    return layers // 2 if spec.family == "encdec" else layers


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("torch", "trl", "bitsandbytes"):
        pytest.importorskip(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("probe_accuracy", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "probe_accuracy", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "technique", "objective"),
    [
        ("llama", "qlora", "sft"),
        ("bert", "full", "seq_cls"),
        ("t5", "lora", "seq2seq"),
        ("llama", "lora", "dpo"),
        ("llama", "lora", "kto"),
        ("llama", "full", "orpo"),
        ("llama", "lora", "reward"),
    ],
)
def test_memory_of_the_whole_is_what_the_profiler_sees(
    script: Any, tmp_path: Path, config: str, technique: str, objective: str
):
    made = getattr(script, config)(6, 64)
    case = (config, made, technique, objective, 2, 32, "none")
    row = script.compared(case, "cpu", tmp_path, script.processor("cpu"))
    assert abs(row["memory_error"]) < 0.02
    assert row["layers"] == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_probe_is_recorded_and_calibrates(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ftadvisor.api.probing import probe
    from ftadvisor.sources.records import read_records

    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path / "home"))
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(script.llama(6, 64)))
    found = probe(
        model=str(place), technique="lora", max_length=32, micro_batch_size=2, precision="fp32"
    )
    (row,) = read_records().rows
    assert row["gpu"] == "cpu"
    assert row["method"] == "probe"
    assert row["memory_gib"] * 2**30 == pytest.approx(found.whole.allocated_bytes)
    assert [s["layers"] for s in row["slices"]] == [2, 4]
    assert json.loads(json.dumps(found.as_dict()))["whole"]["layers"] == 6
    # One GPU's rows of the longest length are what is measured, whatever the plan's are.
    found = probe(
        model=str(place), technique="lora", max_length=64, mean_length=8, longest_length=24,
        packing=False, micro_batch_size=2, precision="fp32", num_gpus=2, strategy="ddp",
    )  # fmt: skip
    row = read_records().rows[-1]
    assert {s.max_length for s in found.slices} == {24}
    assert (row["max_length"], row["sequence_fill"]) == (24, "full")
    assert (row["num_gpus"], row["strategy"]) == (1, "none")
    assert any("one GPU" in said for said in found.warnings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_and_other_peoples_trainers_are_recorded(
    script: Any, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import ftadvisor
    from ftadvisor.execution.device import find_device
    from ftadvisor.sources.records import read_records

    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Why?", "completion": "Because."}\n' * 16)
    asked = {"technique": "lora", "precision": "fp32", "micro_batch_size": 2, "max_length": 32}
    model = str(models["decoder"])
    report = ftadvisor.run(
        model=model, dataset=data, max_steps=4, output_dir=tmp_path / "out", eval_share=0.0, **asked
    )
    (row,) = read_records().rows
    assert row["method"] == "run"
    assert row["micro_step_seconds"] * row["gradient_accumulation_steps"] == pytest.approx(
        report.measured["step_seconds"]
    )
    found = ftadvisor.estimate(model, gradient_accumulation_steps=1, **asked)
    callback = ftadvisor.FtadvisorCallback(found)
    config = script.slices.transformers_config(script.model_config(model))
    config.name_or_path = model
    settings = script.settings_of(found)
    trainer = script.slices.trainer_of(
        report.plan, config, settings, find_device(), str(tmp_path / "own"), callback
    )
    trainer.train()
    assert "ftadvisor: step_seconds" in capsys.readouterr().err
    assert read_records().rows[-1]["method"] == "callback"
    assert read_records().rows[-1]["predicted"]["allocated_bytes"] == found.memory.allocated_bytes
    # A directory is recorded where it is, for an estimate knows its last part only.
    assert read_records().rows[-1]["model"] == model
    assert read_records().rows[-1]["local_model"] is True
    elsewhere = ftadvisor.estimate(model, gradient_accumulation_steps=1, gpu="l40s", **asked)
    of_a_gpu = ftadvisor.FtadvisorCallback(elsewhere, record=False)
    of_a_gpu.on_train_begin(trainer.args, SimpleNamespace(is_world_process_zero=True), None)
    assert of_a_gpu.predicted() == {}
    assert "gpu cpu (estimated: l40s)" in capsys.readouterr().err
    # A trainer of two processes, and of other batches, with the estimate of one.
    other = arguments(trainer.args, world_size=2, per_device_train_batch_size=4)
    state = SimpleNamespace(is_world_process_zero=True)
    callback.on_train_begin(other, state, None)
    assert callback.predicted() == {}
    for _ in range(3):
        callback.on_step_begin(other, state, None)
        callback.on_step_end(other, state, None)
    callback.on_train_end(other, state, None)
    last = read_records().rows[-1]
    assert (last["num_gpus"], last["strategy"], last["predicted"]) == (2, "ddp", {})
    assert last["micro_batch_size"] == 4
    said = capsys.readouterr().err
    assert "micro_batch_size 4 (estimated: 2), num_gpus 2 (estimated: 1), strategy ddp" in said
    # Of rows that another limit cuts nobody knows the lengths.
    count = len(read_records().rows)
    callback.on_train_begin(arguments(other, max_length=64), state, None)
    callback.on_step_begin(other, state, None)
    callback.on_step_end(other, state, None)
    callback.on_train_end(other, state, None)
    assert len(read_records().rows) == count
    assert "not recorded, nothing predicted: max_length 64" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("lengths", "recorded"),
    [((5, 9, 600), (175.33, 512, "padded-to-longest")), ((7, 7), (7.0, None, "full"))],
)
def test_a_callback_records_the_lengths_that_were_trained_on(
    script: Any, lengths: tuple[int, ...], recorded: tuple[float, int | None, str]
):
    """The estimate knows no data and guesses 128 tokens a row: by that a machine that trains on
    longer ones would be called slow."""
    from datasets import Dataset  # pyright: ignore

    import ftadvisor
    from ftadvisor.sources.lengths import published_lengths
    from ftadvisor.sources.records import read_records

    found = ftadvisor.estimate("llama-3.2-1b", technique="lora", max_length=512, micro_batch_size=2)
    assert found.settings["mean_length"] == 128
    callback = ftadvisor.FtadvisorCallback(found)
    given, state = arguments(AS_PLANNED, optim="adamw_torch_fused"), SimpleNamespace()
    state.is_world_process_zero = True
    given.auto_find_batch_size = False
    callback.on_train_begin(given, state, None)
    for _ in range(3):
        callback.on_step_begin(given, state, None)
        callback.on_step_end(given, state, None)
    table = Dataset.from_dict({"input_ids": [[1] * n for n in lengths]})  # pyright: ignore
    callback.on_train_end(given, state, None, train_dataloader=SimpleNamespace(dataset=table))
    (row,) = read_records().rows
    said = row["mean_tokens_per_sample"], row.get("longest_sequence_tokens"), row["sequence_fill"]
    assert said == (pytest.approx(recorded[0], abs=0.01), *recorded[1:])
    assert published_lengths(row).mean == pytest.approx(recorded[0], abs=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_noisy_probe_says_no_time(
    script: Any, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    from ftadvisor.api.probing import probe
    from ftadvisor.sources.records import read_records

    made = script.slices.transformers_config(script.llama(6, 64))
    monkeypatch.setattr(script.slices, "transformers_config", lambda _: made)
    monkeypatch.setattr(
        script.slices,
        "measured",
        lambda *of, memory=True: part(of[-1], 1 / of[-1], loss=10 * of[-1]),
    )
    found = probe(model=str(models["decoder"]), technique="lora", max_length=32)
    assert any("fewer layers took longer" in said for said in found.warnings)
    (row,) = read_records().rows
    assert "micro_step_seconds" not in row
    assert row["memory_gib"] > 0
    print_document(probe_document(found))


@pytest.mark.slow
def test_micro_batches_that_are_left_out_take_as_long_as_the_second():
    """Two warm steps, then three of three micro-batches that take 1, 2 and 4 s, the optimizer among
    the last: with five more of 2 s a step takes 17."""
    from ftadvisor.execution.device import Device
    from ftadvisor.execution.probing.timing import ProbeCallback

    now = [0.0]

    class Clocked(ProbeCallback):
        def _now(self) -> tuple[float, float]:
            return now[0], 2 * now[0]

    clock, control = (
        Clocked(Device("cpu", "cpu", 0, "cpu", 1), skipped=5, memory=False),
        SimpleNamespace(),
    )
    for _ in range(5):
        clock.on_step_begin(None, None, control)
        for seconds in (1.0, 2.0):
            now[0] += seconds
            clock.on_substep_end(None, None, control)
        now[0] += 4.0
        clock.on_step_end(None, None, control)
    assert clock.walls == [17.0, 17.0, 17.0]
    assert clock.cpus == [34.0, 34.0, 34.0]
    # Of the 21 s that were spent, four are enough.
    assert control.should_training_stop


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("objective", ["grpo", "sft"])
def test_only_what_ran_out_of_memory_is_recorded_so(
    script: Any, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, objective: str
):
    from ftadvisor.api.probing import probe
    from ftadvisor.sources.records import read_records

    def built(*_: Any) -> Any:
        # What a CPU's allocator raises.
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    if objective == "sft":
        monkeypatch.setattr(script.slices, "blank_model", built)
    with pytest.raises(UnsupportedError) as said:
        probe(model=str(models["decoder"]), technique="lora", objective=objective, max_length=32)
    assert ("run out of memory" in str(said.value)) == (objective == "sft")
    assert [row["oom"] for row in read_records().rows] == [True] * (objective == "sft")


@pytest.mark.slow
def test_a_slice_that_ran_out_of_memory_leaves_nothing_alive(
    script: Any, monkeypatch: pytest.MonkeyPatch
):
    """Trainers hold themselves in a cycle: the next slice would find less room."""
    from ftadvisor.execution.device import find_device

    class Trainer:
        def __init__(self) -> None:
            self.itself = self

        def train(self) -> None:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )

    made: list[weakref.ref[Trainer]] = []

    def trainer_of(*_: Any) -> Trainer:
        trainer = Trainer()
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(script.slices, "trainer_of", trainer_of)
    config = script.slices.transformers_config(script.llama(6, 64))
    plan: Any = None
    found = script.slices.measured(plan, config, Settings(technique="lora"), find_device(), 4)
    assert found.status == "oom"
    assert made[0]() is None


ARGUMENTS = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "n_gpu", "optim",
    "bf16", "fp16", "gradient_checkpointing", "gradient_checkpointing_kwargs", "fsdp",
    "fsdp_config", "deepspeed_plugin", "max_grad_norm", "use_liger_kernel", "max_length",
    "packing", "auto_find_batch_size",
)  # fmt: skip


def arguments(of: Any, **other: Any) -> SimpleNamespace:
    """A trainer's arguments with some of them changed; world_size is a property of theirs."""
    found = {name: getattr(of, name) for name in ARGUMENTS if hasattr(of, name)}
    return SimpleNamespace(**{**found, **other})


PLANNED = Settings(
    technique="lora", micro_batch_size=2, max_length=32, mean_length=10.0, longest_length=20,
    optim="paged_adamw", autocast="bf16", gradient_checkpointing="full",
)  # fmt: skip
AS_PLANNED = SimpleNamespace(
    per_device_train_batch_size=2, gradient_accumulation_steps=1, world_size=1, n_gpu=1, fsdp=None,
    optim="paged_adamw_32bit", bf16=True, fp16=False, gradient_checkpointing=True, fsdp_config={},
    gradient_checkpointing_kwargs=None, max_grad_norm=1.0, use_liger_kernel=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {}),
        ({"per_device_train_batch_size": 8}, {"micro_batch_size": 8}),
        ({"gradient_accumulation_steps": 4}, {"gradient_accumulation_steps": 4}),
        ({"gradient_checkpointing": False}, {"gradient_checkpointing": "none"}),
        (
            {"gradient_checkpointing_kwargs": {"selective": True}},
            {"gradient_checkpointing": "selective"},
        ),
        ({"bf16": False, "fp16": True}, {"autocast": "fp16"}),
        ({"bf16": False}, {"autocast": "none"}),
        ({"optim": "adamw_torch"}, {"optim": "adamw_torch"}),
        ({"optim": "adamw_8bit"}, {"optim": "adamw_8bit"}),
        ({"max_grad_norm": None}, {"max_grad_norm": 0.0}),
        ({"use_liger_kernel": True}, {"fused_norm": True, "fused_mlp": True}),
        # The longest row has 20 tokens: nothing is cut.
        ({"max_length": 24, "packing": False}, {"max_length": 24}),
        (
            {"max_length": 64, "packing": True},
            {"max_length": 64, "packing": True, "mean_length": 64, "mean_padded_length": 64,
             "longest_length": 64},
        ),
    ],
)  # fmt: skip
def test_what_a_trainer_was_given_counts(given: dict[str, Any], changed: dict[str, Any]):
    args = SimpleNamespace(**{**vars(AS_PLANNED), **given})
    assert as_given(PLANNED, args) == replace(PLANNED, **changed)


@pytest.mark.parametrize("named", ["adamw_8bit", "adamw_bnb_8bit"])
def test_an_optimizer_of_two_names_is_one(named: str):
    planned = replace(PLANNED, optim="adamw_8bit")
    args = SimpleNamespace(**{**vars(AS_PLANNED), "optim": named})
    assert as_given(planned, args) == planned


@pytest.mark.parametrize("given", [{"max_length": 16}, {"n_gpu": 2}])
def test_what_settings_cannot_say_is_not_guessed(given: dict[str, Any]):
    with pytest.raises(UnsupportedError):
        as_given(PLANNED, SimpleNamespace(**{**vars(AS_PLANNED), **given}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_techniques_side_by_side(script: Any, models: dict[str, Path], tmp_path: Path):
    from ftadvisor.api.benchmarking import benchmark
    from ftadvisor.render.benchmark import benchmark_document

    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Why?", "completion": "Because."}\n' * 16)
    found = benchmark(
        str(models["decoder"]), data, ["lora", "full"], train_tokens=300,
        output_dir=tmp_path / "out", precision="fp32", micro_batch_size=2, max_length=32,
        gradient_accumulation_steps=1, objective="sft",
    )  # fmt: skip
    lora, full = found.rows
    for row in (lora, full):
        assert row.problem is None
        assert row.report
        assert row.quality
    assert lora.report
    assert full.report
    assert lora.report.measured["num_steps"] == full.report.measured["num_steps"]
    print_document(benchmark_document(found))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_out_of_memory_is_recorded_and_less_is_tried(
    script: Any,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    from ftadvisor.api.probing import probe
    from ftadvisor.sources.records import read_records

    made = script.slices.transformers_config({**script.llama(6, 64)})
    room = [1]

    def measured(
        plan: Any, config: Any, settings: Any, device: Any, layers: int, *, memory: bool = True
    ) -> Slice:
        fits = layers <= room[0]
        return part(layers, 0.1 * layers, loss=10 * layers) if fits else Slice(layers, 1, 8, "oom")

    monkeypatch.setattr(script.slices, "measured", measured)
    monkeypatch.setattr(script.slices, "transformers_config", lambda _: made)
    for room[0], tried in ((4, [2, 4]), (2, [1, 2, 4])):
        found = probe(model=str(models["decoder"]), technique="lora", max_length=32)
        assert [s.layers for s in found.slices] == tried
    # One layer alone tells nothing of the others.
    room[0] = 1
    with pytest.raises(UnsupportedError, match="two layers run out of memory"):
        probe(model=str(models["decoder"]), technique="lora", max_length=32)
    assert read_records().rows[-1]["oom"] is True
    # Of two layers both slices would be the model: one is.
    room[0] = 4
    made = script.slices.with_layers(made, 2)
    found = probe(model=str(models["decoder"]), technique="lora", max_length=32)
    assert [s.layers for s in found.slices] == [2]
    assert found.whole.step_seconds == found.slices[0].step_seconds
    print_document(probe_document(found))
    assert "2 layers, measured whole" in capsys.readouterr().out

"""What a run measures of a CPU's memory, against torch.profiler's record of every allocation."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from execution_models import chat, rows, write_rows
from test_run import train

from ftadvisor.execution import stack
from ftadvisor.execution.allocations import Allocations, held_bytes, models_of
from ftadvisor.sources.records import read_records
from ftadvisor.units import format_bytes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

WITHIN = 0.01
"""Of the whole; a batch itself is not counted."""
ROWS: dict[str, list[dict[str, Any]]] = {
    "dpo": [{"prompt": f"{i}?", "chosen": "yes it is", "rejected": "no"} for i in range(40)],
    "distillation": chat(),
    "grpo": [{"prompt": f"say {i}"} for i in range(40)],
}
NO_EVALUATION: dict[str, Any] = {"eval_share": 0.0, "save_steps": 0, "progress": False}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    # The profiler sees what its own thread allocates.
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")


def rewarded(place: Path) -> dict[str, Any]:
    """A reward function for answers."""
    scores = "def score(completions, **_):\n    return [len(str(c)) % 3.0 for c in completions]\n"
    (place / "scoring.py").write_text(scores)
    return {"reward_function": f"{place / 'scoring.py'}:score"}


def recorded(work: Any) -> tuple[Any, int, int]:
    """What it returns; the most that was allocated in training, and what is left [bytes]."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    gc.collect()
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        found = work()
    now = peak = 0
    training = False
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name().startswith("training "):
            training = event.name() == "training begins"
        elif event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now) if training else peak
    return found, peak, now


def truth(monkeypatch: pytest.MonkeyPatch, run: Any) -> int:
    """The allocated peak of a run's training [bytes]."""
    inner = stack.transformers.Trainer.train

    def marked(self: Any, *args: Any, **options: Any) -> Any:
        with torch.profiler.record_function("training begins"):
            pass
        found = inner(self, *args, **options)
        with torch.profiler.record_function("training ends"):
            pass
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stack.transformers.Trainer, "train", marked)
        report, peak, _ = recorded(run)
    assert report.status == "done"
    # Two cannot record at once: what is not known is left out.
    assert "allocated_bytes" not in report.measured
    return peak


@pytest.mark.parametrize(
    ("technique", "objective", "options"),
    [
        ("lora", "sft", {}),
        ("full", "sft", {"gradient_accumulation_steps": 3, "max_steps": 3}),
        ("full", "clm", {"gradient_checkpointing": "full"}),
        ("qlora", "sft", {}),
        ("adalora", "seq_cls", {}),
        ("full", "seq2seq", {"optim": "adafactor"}),
        ("full", "dpo", {}),
        ("full", "distillation", {"max_completion_length": 16}),
        ("full", "grpo", {"beta": 0.02, "num_generations": 2, "max_completion_length": 8}),
    ],
)
def test_as_torch_profiler_has_it(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: str,
    objective: str, options: dict[str, Any],
):  # fmt: skip
    more = {"distillation": {"teacher_model": str(models["decoder"])}, "grpo": rewarded(tmp_path)}
    data = write_rows(tmp_path / "rows.jsonl", ROWS.get(objective) or rows(objective))
    options = {"dataset": data, "max_steps": 5, **options, **more.get(objective, {})}

    def run(name: str) -> Any:
        given = {**options, **NO_EVALUATION, "output_dir": tmp_path / name}
        return train(models, tmp_path, technique, objective, **given)

    report = run("watched")
    true = truth(monkeypatch, lambda: run("profiled"))
    # It does not see two tables freed, as a quantised base is read.
    within = 2 * WITHIN if technique == "qlora" else WITHIN
    assert report.measured["allocated_bytes"] == pytest.approx(true, rel=within)
    row = read_records().rows[0]
    assert row["memory_metric"] == "allocated"
    assert row["memory_gib"] * 2**30 == pytest.approx(report.measured["allocated_bytes"])
    if objective == "clm":
        predicted = format_bytes(report.predicted["allocated_bytes"])
        assert f"predicted {predicted}" in report.as_page()
        assert "| memory allocated |" in report.as_card()


def test_the_longest_batch_is_watched_wherever_it_comes(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And most others are not."""
    uneven = [{"text": "one " * (20 if i == 30 else 2)} for i in range(40)]
    data = write_rows(tmp_path / "rows.jsonl", uneven)

    def run(name: str) -> Any:
        return train(
            models, tmp_path, "full", "clm", dataset=data, max_steps=10, packing=False,
            output_dir=tmp_path / name, **NO_EVALUATION,
        )  # fmt: skip

    report = run("watched")
    true = truth(monkeypatch, lambda: run("profiled"))
    assert report.measured["allocated_bytes"] == pytest.approx(true, rel=WITHIN)
    watched = {r["step"]: r["allocated_bytes"] for r in report.memory if "allocated_bytes" in r}
    assert {1, 2} <= watched.keys()
    assert len(watched) < 5
    assert max(watched.values()) > 1.05 * watched[2]
    assert "allocated, peak of watched steps" in report.as_page()


def test_a_torch_that_has_changed_is_not_measured(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(torch.autograd, "_prepare_profiler")
    report = train(models, tmp_path, "lora", max_steps=2, **NO_EVALUATION)
    assert report.status == "done"
    assert "allocated_bytes" not in report.measured
    assert report.measured["host_bytes"] > 0


def test_an_error_in_a_step_ends_the_recording():
    def fails(*_: Any, **__: Any) -> None:
        trainer.compute_loss(None, {"input_ids": torch.zeros(4)})
        raise RuntimeError("out of memory")

    kept = torch.zeros(100, dtype=torch.uint8)
    trainer: Any = SimpleNamespace(
        optimizer=SimpleNamespace(state={0: {"kept": kept}}), training_step=fails,
        compute_loss=lambda *_: torch.zeros(1000, dtype=torch.uint8),
    )  # fmt: skip
    allocations = Allocations()
    allocations.follow(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.training_step()
    assert not torch.autograd._profiler_enabled()
    assert (allocations.of_step(), allocations.peak, allocations.now) == (1100, 1100, 100)
    # An evaluation is none of a step.
    trainer.compute_loss(None, {"input_ids": torch.zeros(5)})
    assert allocations.of_step() is None


def test_every_model_that_a_trainer_keeps_is_held():
    own, reference, reward = (torch.nn.Linear(n, 1, bias=False) for n in (10, 100, 1000))
    trainer = SimpleNamespace(
        model=own, model_wrapped=own, ref_model=reference, reward_funcs=[reward, print], args=None
    )
    own.weight.grad = torch.zeros_like(own.weight)
    optimizer: Any = SimpleNamespace(state={})
    assert held_bytes(models_of(trainer), optimizer) == 4 * (10 + 10 + 100 + 1000)


def test_gradients_in_buckets_are_held():
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        own = torch.nn.Linear(1000, 1000)
        own.bias.requires_grad_(False)
        # What is sent at first is freed by another thread, some time later.
        parallel = partial(torch.nn.parallel.DistributedDataParallel, init_sync=False)
        wrapped, _, left = recorded(lambda: parallel(own))
        held = held_bytes([own, wrapped], SimpleNamespace(state={}))
        assert held == pytest.approx(left + 4 * (1000 * 1000 + 1000), rel=1e-3)
    finally:
        distributed.destroy_process_group()

"""What ends a run too early loses nothing: kills, signals, memory, disks, losses that run away."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from execution_models import rows, write_rows
from rich.console import Console

import ftadvisor
from ftadvisor.cli import main
from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import checkpoints, resuming
from ftadvisor.execution.journal import Journal
from ftadvisor.sources.records import read_records

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 8,
    "max_length": 32, "learning_rate": 5e-3, "eval_share": 0.1, "lora_dropout": 0.1,
    "save_steps": 2, "progress": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def options(models: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """A LoRA run of eight steps with dropout, so that the generators matter."""
    data = write_rows(tmp_path / "rows.jsonl", rows("sft"))
    return {
        "model": str(models["decoder"]), "technique": "lora", "objective": "sft",
        "dataset": str(data), "output_dir": str(tmp_path / "out"), **SMALL,
    }  # fmt: skip


def losses(report: ftadvisor.Report) -> list[tuple[Any, ...]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in report.losses]


def raising(step: int, what: Any) -> Any:
    """A callback that does something at the end of a step."""
    import transformers

    class Raising(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                what()

    return Raising()


def with_callback(monkeypatch: pytest.MonkeyPatch, callback: Any) -> None:
    from ftadvisor.execution import run

    real = run._callbacks
    monkeypatch.setattr(run, "_callbacks", lambda *a, **k: [*real(*a, **k), callback])


def test_killed_at_five_moments_it_learns_the_same(options: dict[str, Any], tmp_path: Path):
    seed = int.from_bytes(os.urandom(2))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_run.py")), json.dumps(options),
         str(seed)],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    # Libraries that it imports may print too.
    assert len(json.loads(done.stdout.splitlines()[-1])) == 5
    written = json.loads((tmp_path / "out/report.json").read_text())
    unbroken = ftadvisor.run(
        **{**options, "output_dir": tmp_path / "unbroken", "max_steps": 24, "save_steps": 0,
           "eval_share": 0.1}
    )  # fmt: skip
    assert written["status"] == "done"
    assert [(r["step"], r["loss"], r["grad_norm"]) for r in written["losses"]] == losses(unbroken)
    assert [p.name for p in checkpoints.finished(tmp_path / "out/checkpoints")] == [
        "checkpoint-21", "checkpoint-24",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("technique", "objective", "more"),
    [("full", "seq_cls", {}), ("qlora", "sft", {"adapter_dtype": "bf16"}), ("lora", "seq_cls", {}),
     ("adalora", "sft", {}), ("ia3", "sft", {}), ("prompt_tuning", "sft", {})],
)  # fmt: skip
def test_a_failure_is_told_and_resumed_from(
    models: dict[str, Path], options: dict[str, Any], tmp_path: Path, technique: str,
    objective: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Any other exception: a report, and the run goes on with the same losses."""
    model = models["encoder" if objective == "seq_cls" else "decoder"]
    data = write_rows(tmp_path / f"{objective}.jsonl", rows(objective))
    del options["lora_dropout"]
    given = {**options, "model": str(model), "technique": technique, "objective": objective,
             "dataset": str(data), **more}  # fmt: skip
    unbroken = ftadvisor.run(**{**given, "output_dir": tmp_path / "unbroken"})

    def fail() -> None:
        raise RuntimeError("a cable was pulled")

    with monkeypatch.context() as patch:
        with_callback(patch, raising(5, fail))
        report = ftadvisor.run(**given)
    assert report.status == "failed"
    assert report.events[-1].what.startswith("RuntimeError: a cable was pulled (")
    assert report.measured["num_steps"] == 5
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written["status"] == "failed"
    resumed = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    assert resumed.status == "done"
    assert losses(resumed) == losses(unbroken)
    assert resumed.metrics == unbroken.metrics


def test_signals_save_and_a_second_one_ends_at_once(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    words = ["run", "--output-dir", options.pop("output_dir"), "--no-progress", "--save-steps", "0"]
    del options["progress"], options["save_steps"]
    words += [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    with monkeypatch.context() as patch:
        with_callback(patch, raising(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "interrupted"
    place = tmp_path / "out"
    assert f"Continue: ftadvisor run --resume --output-dir {place}" in err
    (last,) = checkpoints.finished(place / "checkpoints")
    assert last.name in ("checkpoint-3", "checkpoint-4")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["run", "--output-dir", str(place)]) == 2
    assert "model is missing" in capsys.readouterr().err
    assert main([*words[:2], str(place), *words[3:], "--learning-rate", "0.1", "--resume"]) == 2
    assert "learning_rate is 0.005, not 0.1" in capsys.readouterr().err
    assert main(["run", "--resume", "--output-dir", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in found["losses"]] == [*range(1, 9)]
    assert main(["run", "--resume", "--output-dir", str(place)]) == 2
    assert "a run that is done" in capsys.readouterr().err


@pytest.mark.parametrize("during", ["save_model", "measure"])
def test_a_signal_after_the_last_step(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, during: str
):
    """Nothing asked for the end there, though a checkpoint and the end had been promised."""
    from ftadvisor.execution import run as running

    real, trained = getattr(running, during), []

    def interrupted(*args: Any, **given: Any) -> Any:
        if given.get("base") is not True:
            os.kill(os.getpid(), signal.SIGTERM)
        found = real(*args, **given)
        trained.append(given)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(running, during, interrupted)
        report = ftadvisor.run(**options, eval_answers=0)
    assert report.status == "interrupted"
    assert report.metrics["eval_loss"].after is None
    place = Path(options["output_dir"])
    # What is being saved is saved whole, what is being measured is not waited for.
    saved = [given.get("base") for given in trained]
    assert saved == ([None] if during == "save_model" else [True])
    assert (place / "adapter_model.safetensors").is_file()
    resumed = ftadvisor.run(output_dir=str(place), resume=True, progress=False)
    assert resumed.status == "done"
    assert resumed.metrics["eval_loss"].after is not None
    assert losses(resumed) == losses(report)


def test_the_second_signal_kills(monkeypatch: pytest.MonkeyPatch):
    from ftadvisor.execution.callbacks.interruption import InterruptionCallback

    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    # Of a process in the background of a shell it is another than Python's own.
    handler = signal.getsignal(signal.SIGINT)
    callback = InterruptionCallback(Journal())
    with callback.watching():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert sent == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == handler


@pytest.mark.parametrize("after", [0, 3])
def test_out_of_memory_halves_the_micro_batch(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    """The same losses as with the small micro-batch from the start; from the checkpoint on where
    there is one."""
    from transformers.models.llama.modeling_llama import LlamaModel

    # Dropout draws per micro-batch.
    options |= {"lora_dropout": 0.0, "max_steps": 4}
    small = ftadvisor.run(
        **{**options, "micro_batch_size": 1, "gradient_accumulation_steps": 4,
           "output_dir": tmp_path / "small"}
    )  # fmt: skip
    real, calls = LlamaModel.forward, [0]

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        size = len(
            next(v for v in (given.get("input_ids"), given.get("inputs_embeds")) if v is not None)
        )
        calls[0] += self.training
        if size > 1 and self.training and calls[0] > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(LlamaModel, "forward", forward)
        report = ftadvisor.run(**options)
    assert report.status == "done"
    events = [event for event in report.events if event.kind == "out_of_memory"]
    assert [event.step for event in events] == [after, 2 if after else 0]
    assert "micro_batch_size 1 and gradient_accumulation_steps 4" in events[-1].what
    for mine, theirs in zip(losses(report), losses(small), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_a_resumed_run_tells_what_happened_before_it(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In order, and once: of three processes the second ends as the first one did."""
    from transformers.models.llama.modeling_llama import LlamaModel

    real = LlamaModel.forward

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        if self.training and len(given["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *args, **given)

    def fail() -> None:
        raise RuntimeError("a cable was pulled")

    with monkeypatch.context() as patch:
        with_callback(patch, raising(5, fail))
        with patch.context() as short:
            short.setattr(LlamaModel, "forward", forward)
            ftadvisor.run(**options)
        broken = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    assert (broken.status, broken.events[-1].kind) == ("failed", "failed")
    recorded = len(read_records().rows)
    resumed = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    # The figures are this process's, which has halved nothing.
    assert len(read_records().rows) == recorded + 1
    happened = ("out_of_memory", "failed", "resumed")
    kinds = [event.kind for event in resumed.events if event.kind in happened]
    assert kinds == ["out_of_memory", "failed", "resumed", "failed", "resumed"]
    others = [event for event in resumed.events if event.kind not in happened]
    assert len({*others}) == len(others)
    assert resumed.events[: len(broken.events)] == broken.events
    # A report of another form is no reason to lose the run.
    (tmp_path / "out/report.json").write_text('{"events": [{"kind": "failed"}]}')
    journal = Journal()
    resuming.last_checkpoint(tmp_path / "out", journal)
    assert journal.earlier == []


def test_nothing_left_to_halve(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    from transformers.models.llama.modeling_llama import LlamaModel

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")

    monkeypatch.setattr(LlamaModel, "forward", forward)
    report = ftadvisor.run(**{**options, "micro_batch_size": 2})
    assert report.status == "out_of_memory"
    assert "needs less: a shorter --max-length" in report.events[-1].what
    assert Path(options["output_dir"], "report.json").exists()


def test_micro_batches_of_kto_keep_two():
    from dataclasses import replace

    from ftadvisor.execution.out_of_memory import halved
    from ftadvisor.schema.settings import Settings

    settings = Settings(technique="lora", objective="kto", micro_batch_size=4)
    smaller = halved(settings)
    assert smaller is not None
    assert (smaller.micro_batch_size, smaller.gradient_accumulation_steps) == (2, 2)
    assert halved(smaller) is None
    assert halved(replace(smaller, objective="sft")) is not None


def test_what_counts_as_too_little_memory():
    from ftadvisor.execution.out_of_memory import halved, is_out_of_memory
    from ftadvisor.schema.settings import Settings

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("The size of tensor a must match"))
    sizes = []
    settings: Settings | None = Settings(
        technique="lora", micro_batch_size=12, gradient_accumulation_steps=1
    )
    while settings:
        sizes.append((settings.micro_batch_size, settings.gradient_accumulation_steps))
        settings = halved(settings)
    assert sizes == [(12, 1), (6, 2), (3, 4), (1, 12)]


def test_a_full_disk_keeps_the_last_checkpoint(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = torch.save

    def save(what: Any, place: Any, *args: Any, **given: Any) -> None:
        if "checkpoint-6" in str(place):
            Path(place).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(what, place, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        report = ftadvisor.run(**options)
    assert report.status == "failed"
    assert report.events[-1].what == (
        "the checkpoint of step 6 cannot be written: the disk is full"
    )
    place = tmp_path / "out/checkpoints"
    assert [p.name for p in sorted(place.iterdir()) if p.is_dir()] == [
        "checkpoint-2", "checkpoint-4",
    ]  # fmt: skip
    assert ftadvisor.run(resume=True, output_dir=tmp_path / "out").status == "done"


def test_a_log_on_a_full_disk(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """/dev/full answers every write with ENOSPC; all is closed all the same."""
    from ftadvisor.execution.callbacks.log import LogCallback

    out, begin, closed = Path(options["output_dir"]), LogCallback.on_train_begin, []
    last = raising(0, None)
    last.close = lambda _: closed.append(True)
    with_callback(monkeypatch, last)

    def begin_on_a_full_disk(self: Any, *of: Any, **given: Any) -> None:
        # What an evaluation before it has logged.
        (out / "log.jsonl").unlink(missing_ok=True)
        (out / "log.jsonl").symlink_to("/dev/full")
        begin(self, *of, **given)

    monkeypatch.setattr(LogCallback, "on_train_begin", begin_on_a_full_disk)
    report = ftadvisor.run(**options)
    assert report.status == "failed"
    assert "No space left on device" in report.events[-1].what
    assert report.measured["num_steps"] < 2
    assert closed


def test_the_checkpoint_before_a_loss_that_is_no_number_stays(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import transformers
    from safetensors.torch import load_file

    class Poison(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 5:
                weight = next(p for p in given["model"].parameters() if p.requires_grad)
                weight.data[:] = float("nan")

    with_callback(monkeypatch, Poison())
    report = ftadvisor.run(**options)
    assert report.status == "diverged"
    assert [row["step"] for row in report.losses] == [1, 2, 3, 4, 5, 6]
    *_, last = checkpoints.finished(tmp_path / "out/checkpoints")
    assert last.name == "checkpoint-4"
    weights = load_file(last / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_losses_that_run_away():
    from ftadvisor.execution.callbacks.divergence import DivergenceCallback

    ended: dict[str, int] = {}
    saved: dict[str, list[int]] = {}
    cases = {
        "wavers": [2.0, 3.0, 1.5, 2.5] * 8,
        "warms up": [2.0] * 5 + [2.5] * 15 + [1.5] * 10,
        "peaks": [2.0] * 5 + [6.0] * 9 + [1.5] * 10,
        "grows": [2.0] * 8 + [9.0] * 20,
    }
    for name, values in cases.items():
        journal = Journal()
        callback = DivergenceCallback(journal)
        for step, loss in enumerate(values, 1):
            journal.losses.append({"step": step, "loss": loss})
            control = SimpleNamespace(should_training_stop=False, should_save=True)
            state, args = SimpleNamespace(global_step=step), SimpleNamespace(fp16=False)
            callback.on_log(args, state, control, {"loss": loss})
            if control.should_save:
                saved.setdefault(name, []).append(step)
            if control.should_training_stop:
                ended[name] = step
                break
        assert (journal.status == "diverged") == (name == "grows")
    assert ended == {"grows": 18}
    # The last checkpoint is of before the loss rose.
    assert saved["grows"] == [*range(1, 9)]


def test_a_gradient_that_is_no_number():
    """The weights are lost with it; only fp16's scaler leaves the step out."""
    from ftadvisor.execution.callbacks.divergence import DivergenceCallback

    for fp16, status in ((True, "done"), (False, "diverged")):
        journal = Journal()
        journal.losses.append({"step": 1, "loss": 2.0})
        control = SimpleNamespace(should_training_stop=False, should_save=True)
        logs = {"loss": 2.0, "grad_norm": float("inf")}
        callback = DivergenceCallback(journal)
        state = SimpleNamespace(global_step=1)
        callback.on_log(SimpleNamespace(fp16=fp16), state, control, logs)
        assert journal.status == status
        assert control.should_save == fp16


def test_a_log_that_was_cut_is_read(tmp_path: Path):
    """What came after the checkpoint is forgotten, half a line is none."""
    lines = [
        {"seconds": 1.0, "step": 0, "eval_loss": 3.0}, {"seconds": 2.0, "step": 1, "loss": 3.0},
        {"seconds": 3.0, "step": 2, "loss": 2.0}, {"seconds": 4.0, "step": 3, "loss": 1.0},
    ]  # fmt: skip
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"seconds": 5.0, "st')
    assert resuming.read_log(log) == lines
    (tmp_path / "checkpoints/checkpoint-2").mkdir(parents=True)
    (tmp_path / "checkpoints/.unfinished/checkpoint-4").mkdir(parents=True)
    journal = Journal()
    last = resuming.last_checkpoint(tmp_path, journal)
    assert last is not None
    assert last.name == "checkpoint-2"
    assert journal.losses == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    assert journal.seconds_before == 3.0
    assert resuming.read_log(log) == lines[:3]
    assert not (tmp_path / "checkpoints/.unfinished").exists()


def test_checkpoints_are_no_rarer_than_a_tenth_of_the_run():
    assert [checkpoints.default_steps(n) for n in (8, 200, 3000, 10**6)] == [10, 20, 300, 500]


def test_a_resumed_run_is_run_as_before(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What --resume alone does not say is as it was: what is merged, and how often is saved."""

    def fail() -> None:
        raise RuntimeError("a cable was pulled")

    with monkeypatch.context() as patch:
        with_callback(patch, raising(3, fail))
        ftadvisor.run(**options, merge=True, eval_answers=1)
    with pytest.raises(InvalidSettingError, match=r"run has not ended.*--resume"):
        ftadvisor.evaluate(tmp_path / "out", dataset=options["dataset"])
    resumed = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    assert (tmp_path / "out/merged/config.json").is_file()
    assert len(resumed.answers) == 1
    names = [path.name for path in checkpoints.finished(tmp_path / "out/checkpoints")]
    assert names == ["checkpoint-6", "checkpoint-8"]


def test_a_reward_is_resumed_with(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The command that a broken run of grpo says names no reward."""
    (tmp_path / "scoring.py").write_text(
        "def score(completions, **_):\n    return [1.0 for _ in completions]\n"
    )
    rl = {"objective": "grpo", "reward_function": f"{tmp_path / 'scoring.py'}:score",
          "num_generations": 2, "max_completion_length": 4, "max_steps": 3,
          "save_steps": 1}  # fmt: skip

    def fail() -> None:
        raise RuntimeError("a cable was pulled")

    with monkeypatch.context() as patch:
        with_callback(patch, raising(2, fail))
        ftadvisor.run(**{**options, **rl})
    (tmp_path / "other.py").write_text((tmp_path / "scoring.py").read_text())
    rl["reward_function"] = f"{tmp_path / 'other.py'}:score"
    with pytest.raises(InvalidSettingError, match="its reward_function is"):
        ftadvisor.run(**{**options, **rl, "resume": True})
    resumed = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    assert resumed.status == "done"
    assert [row["step"] for row in resumed.losses] == [1, 2, 3]


def test_nothing_to_resume(options: dict[str, Any], tmp_path: Path):
    with pytest.raises(InvalidSettingError, match="no run that could be continued"):
        ftadvisor.run(**options, resume=True)
    with pytest.raises(InvalidSettingError, match="what is continued"):
        ftadvisor.run(resume=True)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool, measured: bool):
    from ftadvisor.execution.allocations import Allocations
    from ftadvisor.execution.callbacks.progress import ProgressCallback
    from ftadvisor.execution.device import Device

    time = SimpleNamespace(step_seconds=0.5)
    memory = SimpleNamespace(allocated_bytes=2**30, reserved_bytes=2**32)
    estimate: Any = SimpleNamespace(time=time, memory=memory)
    allocations = Allocations()
    allocations.now, allocations.peak = (3 * 2**30, 5 * 2**30) if measured else (0, 0)
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    device = Device("cpu", "cpu", 2**34, "cpu", 1)
    callback = ProgressCallback(device, estimate, allocations, console)
    state = SimpleNamespace(
        global_step=0, max_steps=3, num_input_tokens_seen=0, is_world_process_zero=True
    )
    callback.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        state.global_step, state.num_input_tokens_seen = step, 100 * step
        callback.on_log(None, state, None, {"loss": 2.5})
    callback.close(state)
    said = text.getvalue()
    for words in ("step 3/3", "loss 2.5", "tokens/s", "peak", "(predicted 500 ms)", "0 ms left"):
        assert words in said
    allocated = "memory 3.00 GiB (peak 5.00 GiB, predicted 1.00 GiB)"
    # What the process takes is no prediction's.
    assert (allocated in said) == measured
    assert ("GiB, predicted" in said) == measured
    # Between the first and the last line no ten seconds have passed.
    assert "step 2/3" not in said

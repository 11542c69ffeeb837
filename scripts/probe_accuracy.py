"""Slice probes of 2 and 4 layers against full runs on this CPU: time and allocated memory.

    python scripts/probe_accuracy.py [--threads N] [--clock wall|cpu] [--only NAME ..] [--json FILE]

For each of 12 runs the slices are probed first; then the whole model is trained, and once more
under torch.profiler from before the model is built, whose record of allocations is the truth of
memory. A run whose two halves differ by over 10 % is repeated, and listed. Beside it stands the
closed form by one measured matmul rate, without and with what was fitted on rows of a processor
(the shipped shares: on this project's machine they are those of the same processor). `--clock cpu`
compares the process's own CPU time, which other processes disturb less: for a busy machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402

from ftadvisor.api.plan_files import complete_plan  # noqa: E402
from ftadvisor.api.simulating import settings_of  # noqa: E402
from ftadvisor.estimation.calibrated import cpu_of, cpu_time  # noqa: E402
from ftadvisor.estimation.memory import step_phases  # noqa: E402
from ftadvisor.estimation.prediction import adapter_of  # noqa: E402
from ftadvisor.estimation.time import step_time  # noqa: E402
from ftadvisor.execution.device import find_device  # noqa: E402
from ftadvisor.execution.probing import slices  # noqa: E402
from ftadvisor.execution.probing.extrapolation import extrapolated  # noqa: E402
from ftadvisor.execution.stack import quieten  # noqa: E402
from ftadvisor.schema.coefficients import CpuCoefficients, Interval  # noqa: E402
from ftadvisor.schema.plan import Plan  # noqa: E402
from ftadvisor.schema.settings import Settings  # noqa: E402
from ftadvisor.sources.coefficients import cpu_coefficients, time_coefficients  # noqa: E402
from ftadvisor.sources.models import find_model, model_config  # noqa: E402
from ftadvisor.sources.plans import draft_of  # noqa: E402
from ftadvisor.sources.techniques import find_technique  # noqa: E402
from ftadvisor.sources.trainers import find_trainer  # noqa: E402

BOUNDS = {"time": (0.08, 0.25), "memory": (0.02, 0.06)}
HALVES_DIFFER = 0.10
REPEATS = 3


def gpt2(layers: int, width: int) -> dict[str, Any]:
    """A small GPT-2's configuration."""
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers,
            "n_embd": width, "n_head": 8, "vocab_size": 4000, "n_positions": 1024,
            "resid_pdrop": 0.1}  # fmt: skip


def llama(layers: int, width: int) -> dict[str, Any]:
    """A small Llama's."""
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width,
            "intermediate_size": width * 11 // 4, "num_hidden_layers": layers,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4000,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False}  # fmt: skip


def bert(layers: int, width: int) -> dict[str, Any]:
    """A small BERT's."""
    return {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": width,
            "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 8,
            "vocab_size": 4000, "max_position_embeddings": 512}  # fmt: skip


def t5(layers: int, width: int) -> dict[str, Any]:
    """A small T5's."""
    return {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": width,
            "d_ff": 4 * width, "d_kv": width // 8, "num_layers": layers,
            "num_decoder_layers": layers, "num_heads": 8, "vocab_size": 4000, "pad_token_id": 0,
            "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip


Case = tuple[str, dict[str, Any] | str, str, str, int, int, str]
"""Name, configuration or the catalogue's model, technique, objective, batch, length,
checkpointing."""
CASES: tuple[Case, ...] = (
    ("gpt2-12-full", gpt2(12, 256), "full", "clm", 2, 128, "none"),
    ("gpt2-24-lora", gpt2(24, 256), "lora", "sft", 2, 128, "none"),
    ("gpt2-16-prefix", gpt2(16, 256), "prefix_tuning", "sft", 2, 128, "none"),
    ("llama-8-full", llama(8, 256), "full", "sft", 2, 256, "full"),
    ("llama-16-lora", llama(16, 256), "lora", "sft", 4, 128, "none"),
    ("llama-12-qlora", llama(12, 256), "qlora", "sft", 2, 128, "none"),
    ("llama-24-prefix", llama(24, 256), "prefix_tuning", "sft", 2, 64, "none"),
    ("bert-6-full", bert(6, 384), "full", "seq_cls", 8, 64, "none"),
    ("bert-12-lora", bert(12, 256), "lora", "seq_cls", 4, 128, "none"),
    ("bert-24-full", bert(24, 256), "full", "token_cls", 2, 128, "none"),
    ("t5-6-full", t5(6, 256), "full", "seq2seq", 2, 128, "none"),
    ("t5-12-lora", t5(12, 256), "lora", "seq2seq", 2, 128, "none"),
)


class Watch(transformers.TrainerCallback):
    """Times steps; stops after enough of them."""

    def __init__(self, steps: int) -> None:
        self.steps, self.walls, self.cpus = steps, [], []
        self.start = (0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock starts."""
        self.start = (time.perf_counter(), time.process_time())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is over."""
        self.walls.append(time.perf_counter() - self.start[0])
        self.cpus.append(time.process_time() - self.start[1])
        control.should_training_stop = len(self.walls) >= self.steps


def trained(plan: Any, config: Any, settings: Any, watch: Watch) -> None:
    """Train as the plan says, watched."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = slices.trainer_of(plan, config, settings, find_device(), folder, watch)
        with torch.profiler.record_function("training"):
            trainer.train()


def timed(plan: Any, config: Any, settings: Any, clock: str) -> tuple[float, int]:
    """Median seconds of a step, and how often the run had to be repeated."""
    repeated = 0
    while True:
        watch = Watch(22)
        trained(plan, config, settings, watch)
        gc.collect()
        steps = (watch.cpus if clock == "cpu" else watch.walls)[2:]
        half = len(steps) // 2
        first, second = statistics.median(steps[:half]), statistics.median(steps[half:])
        if abs(first / second - 1) <= HALVES_DIFFER or repeated == REPEATS:
            break
        repeated += 1
    return statistics.median(steps), repeated


def true_peak(plan: Any, config: Any, settings: Any) -> int:
    """Of what torch.profiler saw allocated and freed since before the model was built [bytes]."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        trained(plan, config, settings, Watch(3))
    gc.collect()
    now = peak = 0
    events = sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    training = False
    for event in events:
        training = training or event.name() == "training"
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now) if training else now
    return peak


def processor(clock: str) -> Any:
    """This CPU by one measured matmul rate and one copy: what is known without a calibration."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    x, w = torch.randn(512, 1024), torch.randn(4096, 1024)
    y, z = torch.zeros(2**24), torch.zeros(2**24)

    def median(work: Any) -> float:
        spent: list[float] = []
        for _ in range(20):
            start = now()
            work()
            spent.append(now() - start)
        return statistics.median(spent)

    return cpu_of(
        {
            "usable_bytes": 2**34,
            "flops_per_second": {"fp32": 2 * 512 * 1024 * 4096 / median(lambda: x @ w.T)},
            "copy_bytes_per_second": 2 * y.nbytes / median(lambda: z.copy_(y)),
        }
    )


def closed_form(plan: Any, settings: Any, cpu: Any, shares: CpuCoefficients) -> tuple[float, float]:
    """Its seconds of a step on this processor, and what it allocates [bytes]."""
    spec = find_model(plan.model).spec
    trainer = find_trainer(plan.estimate.trainer, on_cpu=True)
    adapter = adapter_of(spec, settings, trainer, find_technique(plan.technique))
    c = cpu_time(time_coefficients(), cpu, shares)
    time = step_time(spec, settings, trainer, adapter, cpu, c, {"time": Interval(1.0, 1.0, 0)})
    phases = step_phases(spec, settings, trainer, adapter, cpu.compute_capability)
    return float(time.step_seconds), float(max(phase.total for phase in phases.values()))


def one_rate() -> CpuCoefficients:
    """No share that was fitted on a processor: a GPU's of the bandwidth, all of the others."""
    return replace(
        cpu_coefficients(), rate_share=1.0, host_slowness=1.0,
        bandwidth_share=time_coefficients().bandwidth_share,
    )  # fmt: skip


def of_one_length(settings: Settings) -> Settings:
    """With every row as long as a slice's, whatever the plan's are."""
    length = int(settings.longest_length or settings.max_length)
    lengths = dict.fromkeys(("max_length", "mean_length", "longest_length"), length)
    return replace(settings, **lengths, mean_padded_length=0.0, typical_length=0)


def planned(case: Case, folder: Path) -> tuple[Plan, Mapping[str, Any], Settings]:
    """A case's plan, its model's configuration and its settings; a model of our own is written."""
    name, config, technique, objective, batch, length, checkpointing = case
    model = str(folder / name)
    if isinstance(config, str):
        model = config
    else:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    plan = complete_plan(
        draft_of(
            "case",
            {
                "model": model, "technique": technique, "objective": objective,
                "dataset": None, "hardware": {"gpu": None, "num_gpus": 1}, "seed": 0,
                "settings": {
                    "micro_batch_size": batch, "max_length": length, "precision": "fp32",
                    "gradient_accumulation_steps": 1, "packing": False,
                    "gradient_checkpointing": checkpointing,
                },
            },
        )
    )  # fmt: skip
    return plan, model_config(model), settings_of(plan.estimate)


def compared(case: Case, clock: str, folder: Path, cpu: Any) -> dict[str, Any]:
    """One case: slices first, then the whole model twice."""
    plan, config, settings = planned(case, folder)
    device = find_device()
    probed = slices.probe_slices(plan, config, settings, device)
    made = slices.transformers_config(config)
    whole = extrapolated(probed, slices.depth(made))
    seconds, repeated = timed(plan, made, settings, clock)
    peak = true_peak(plan, made, settings)
    alike = of_one_length(settings)
    shipped, closed_bytes = closed_form(plan, alike, cpu, cpu_coefficients())
    alone, _ = closed_form(plan, alike, cpu, one_rate())
    found = whole.cpu_seconds if clock == "cpu" else whole.step_seconds
    return {
        "name": case[0], "predicted_seconds": found, "measured_seconds": seconds,
        "time_error": found / seconds - 1 if found else -1.0,
        "one_rate_error": alone / seconds - 1, "shipped_error": shipped / seconds - 1,
        "repeated": repeated,
        "predicted_bytes": whole.allocated_bytes, "measured_bytes": peak,
        "memory_error": whole.allocated_bytes / peak - 1, "fullest": whole.peak_phase,
        "closed_form_error": closed_bytes / peak - 1,
        "layers": whole.layers,
    }  # fmt: skip


def main() -> int:
    """Print each case and the bounds; 1 when one does not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    quieten()
    rows: list[dict[str, Any]] = []
    cpu = processor(given.clock)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if given.only and case[0] not in given.only:
                continue
            row = compared(case, given.clock, Path(folder), cpu)
            rows.append(row)
            print(
                f"{row['name']:16} time {row['time_error']:+7.1%} ({row['measured_seconds']:.3f} s,"
                f" by one rate {row['one_rate_error']:+.0%}, shipped {row['shipped_error']:+.0%})"
                f"  memory {row['memory_error']:+7.2%} ({row['measured_bytes'] / 2**20:.0f} MiB,"
                f" {row['fullest']}; closed form {row['closed_form_error']:+.1%})"
                + (f"  repeated {row['repeated']}" * bool(row["repeated"])),
                flush=True,
            )
    holds = True
    for what, (median, worst) in BOUNDS.items():
        errors = [abs(row[f"{what}_error"]) for row in rows]
        middle, most = statistics.median(errors), max(errors)
        holds = holds and middle <= median and most <= worst
        print(f"{what}: median {middle:.1%} (<= {median:.0%}), worst {most:.1%} (<= {worst:.0%})")
    found = {
        name: statistics.median(abs(row[f"{name}_error"]) for row in rows)
        for name in ("time", "one_rate", "shipped")
    }
    holds = holds and 2 * found["time"] <= found["one_rate"]
    print(
        f"time by one measured matmul rate: median {found['one_rate']:.1%}, which a probe at least"
        f" halves; with the shares of data/coefficients/cpu.json: {found['shipped']:.1%}"
    )
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""Real steps on this CPU, as rows of data/measurements/cpu/, which calibration/cpu_fit.py fits.

    python scripts/measure_cpu.py [--threads N] [--only NAME ..]

The machine is probed first, as `ftadvisor probe` does. Each model is then trained whole, and once
more under torch.profiler, whose record of allocations is the truth of memory. Rows of the same
machine, threads and case are replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from probe_accuracy import CASES, Case, bert, gpt2, llama, of_one_length, planned, timed, true_peak

from ftadvisor.execution.device import find_device
from ftadvisor.execution.probing import slices
from ftadvisor.execution.probing.machine import probe_machine, processor
from ftadvisor.execution.stack import quieten
from ftadvisor.sources.own_rows import Ran, row_of

FOLDER = Path(__file__).resolve().parent.parent / "data" / "measurements" / "cpu"
MORE: tuple[Case, ...] = (
    ("smollm2-135m-lora", "smollm2-135m", "lora", "sft", 1, 256, "none"),
    ("smollm2-135m-full-checkpointed", "smollm2-135m", "full", "sft", 2, 128, "full"),
    ("gpt2-lora", "gpt2", "lora", "sft", 1, 512, "none"),
    ("distilgpt2-full", "distilgpt2", "full", "clm", 4, 64, "none"),
    ("bert-base-full", "bert-base-uncased", "full", "seq_cls", 8, 64, "none"),
    ("distilbert-lora", "distilbert-base-uncased", "lora", "seq_cls", 16, 128, "none"),
    ("minilm-full", "all-minilm-l6-v2", "full", "seq_cls", 32, 32, "none"),
    ("t5-small-full", "t5-small", "full", "seq2seq", 4, 128, "none"),
    ("flan-t5-small-lora", "flan-t5-small", "lora", "seq2seq", 2, 256, "none"),
    ("gpt2-4-full-long", gpt2(4, 512), "full", "clm", 1, 1024, "none"),
    ("gpt2-4-full-short", gpt2(4, 512), "full", "clm", 1, 16, "none"),
    ("llama-4-full-wide", llama(4, 1024), "full", "sft", 2, 256, "none"),
    ("llama-4-lora-long", llama(4, 512), "lora", "sft", 1, 1024, "none"),
    ("llama-24-lora-short", llama(24, 256), "lora", "sft", 1, 32, "none"),
    ("bert-4-full-long", bert(4, 512), "full", "token_cls", 4, 512, "none"),
    ("llama-8-ia3", llama(8, 512), "ia3", "sft", 2, 128, "none"),
    ("llama-8-qlora-wide", llama(8, 1024), "qlora", "sft", 2, 128, "none"),
    ("bert-8-prompt", bert(8, 384), "prompt_tuning", "seq_cls", 8, 128, "none"),
)


def machine(name: str) -> dict[str, Any]:
    """What this machine does, by a name in place of the host's."""
    found = probe_machine(find_device())
    kept = ("date", "versions", "usable_bytes", "threads", "products", "flops_per_second",
            "copies", "copy_bytes_per_second", "spread")  # fmt: skip
    return {"id": name, "name": processor(), **{key: found[key] for key in kept}}


def measured(case: Case, folder: Path, name: str) -> dict[str, Any]:
    """One row; a model of our own carries its configuration."""
    plan, config, settings = planned(case, folder)
    made = slices.transformers_config(config)
    seconds, repeated = timed(plan, made, settings, "wall")
    peak = true_peak(plan, made, settings)
    own: dict[str, Any] = {} if isinstance(case[1], str) else {"config": case[1]}
    settings = of_one_length(settings)
    figures = {"step_seconds": seconds, "allocated_bytes": float(peak)}
    more = {
        "id": f"{name}-{case[0]}", "source": "ftadvisor CPU (2026-11)", "machine": name,
        "reference": "scripts/measure_cpu.py", "repeated": repeated, **own,
    }  # fmt: skip
    ran = Ran(
        case[1] if isinstance(case[1], str) else case[0],
        plan.estimate.trainer, settings, "cpu", "run", "done", figures, {}, more,
    )  # fmt: skip
    row = row_of(ran)
    del row["predicted"], row["local_model"]
    return row


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows that are there already under the same id are replaced."""
    found = {}
    if path.exists():
        found = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    found |= {row["id"]: row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found.values()))


def main() -> int:
    """Measure, and write after each row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    quieten()
    name = f"cpu-{given.threads}-of-{os.cpu_count()}"
    if not given.only:
        write(FOLDER / "machines.jsonl", [machine(name)])
    with tempfile.TemporaryDirectory() as folder:
        for case in (*CASES, *MORE):
            if given.only and case[0] not in given.only:
                continue
            row = measured(case, Path(folder), name)
            write(FOLDER / "steps.jsonl", [row])
            print(
                f"{row['id']}: {row['micro_step_seconds']:.3f} s,"
                f" {row['memory_gib'] * 1024:.0f} MiB, repeated {row['repeated']}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

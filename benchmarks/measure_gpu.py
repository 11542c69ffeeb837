"""Real fine-tuning steps on this machine's GPU, as rows of data/measurements/.

    python benchmarks/measure_gpu.py -o rows.jsonl [--seconds 1500] [--only TEXT] [--list]

Models are built from the catalogue's configurations with random weights; nothing is fetched. Each
setting runs in a process of its own. A row that the file has already is not run again. `--tiny`
shrinks every model, to try it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
AHEAD = 8
"""Processes that load their libraries side by side, and then run one after the other."""
READY = "\x1eready\n"
LONGEST_SECONDS = 75
FIRST = 3
"""Where the first so many fail, all will."""
MACHINE = {"id": "machine"}


def main() -> int:
    """Run what is missing; 1 if anything ended in an error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1500, help="start nothing after this")
    parser.add_argument("--only", default="", help="ids that contain this text")
    parser.add_argument("--list", action="store_true", help="print the ids and stop")
    parser.add_argument("--tiny", action="store_true", help="small models, few steps")
    given = parser.parse_args()
    from gpu_settings import settings

    wanted = [row for row in [MACHINE, *settings()] if given.only in row["id"]]
    if given.list:
        print("\n".join(row["id"] for row in wanted))
        return 0
    done = ids_in(given.output)
    errors = run_all([r for r in wanted if r["id"] not in done], given)
    return 1 if errors else 0


def ids_in(path: Path) -> set[str]:
    """What a file of rows has already; errors and a cut last line are none."""
    found: set[str] = set()
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                if not row.get("error"):
                    found.add(row["id"])
            except ValueError:
                continue
    return found


def run_all(rows: list[dict[str, Any]], given: argparse.Namespace) -> int:
    """One after the other; returns how many failed."""
    start, failed = time.monotonic(), 0
    children: list[subprocess.Popen[str]] = []
    for number, row in enumerate(rows):
        if number == len(children):
            # All load before the first of them runs: what loads beside a run slows its host.
            children += [child(r) for r in rows[number : number + AHEAD]]
            for process in children[number:]:
                wait_for(process)
        if time.monotonic() - start > given.seconds:
            print(f"out of time: {len(rows) - number} settings were not run", flush=True)
            break
        began = time.monotonic()
        found = answer(children[number], {**row, "tiny": given.tiny})
        write(found, given.output)
        failed += sum(bool(result.get("error")) for result in found)
        if number == FIRST - 1 and failed >= FIRST:
            print(json.dumps(found, indent=1), "\nnothing runs here: stopped", flush=True)
            break
        print(summary(row, found, time.monotonic() - began), flush=True)
    for process in children:
        process.kill()
    return failed


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows to the file, traced allocations to one beside it."""
    for row in rows:
        traced = row.pop("allocations", None)
        if traced:
            with path.with_suffix(".allocations.jsonl").open("a") as file:
                file.write(json.dumps({"id": row["id"], "allocations": traced}) + "\n")
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def child(row: dict[str, Any]) -> subprocess.Popen[str]:
    """A process that loads what this row needs, and then waits for the row."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # So that asking whether there is a GPU makes no context on it.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    command = [sys.executable, str(HERE / "gpu_step.py"), row.get("program", "")]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_for(process: subprocess.Popen[str]) -> None:
    """Until it has loaded its libraries, or has ended."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) and line != READY:
        pass


def answer(process: subprocess.Popen[str], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Its rows, or one row that says what went wrong."""
    try:
        out, _ = process.communicate(
            json.dumps(row) + "\n", timeout=LONGEST_SECONDS * (8 if row["tiny"] else 1)
        )
        lines = [line[1:] for line in out.split("\n") if line.startswith("\x1e")]
        if lines:
            return [json.loads(line) for line in lines]
        return [{"id": row["id"], "error": f"ended with {process.returncode} and said nothing"}]
    except subprocess.TimeoutExpired:
        process.kill()
        return [{"id": row["id"], "error": f"took longer than {LONGEST_SECONDS} s"}]


def summary(row: dict[str, Any], found: list[dict[str, Any]], seconds: float) -> str:
    """One line for the log."""
    first = found[0]
    said = first.get("error") or (
        "out of memory"
        if first.get("oom")
        else f"{first.get('memory_gib') or 0:.3f} GiB, {first.get('micro_step_seconds') or 0:.4f} s"
    )
    return f"{row['id']:60s} {said[-300:]}  ({len(found)} rows, {seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(main())

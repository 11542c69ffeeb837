"""Speed: one estimate in a warm process, many settings at once, the whole command.

make bench, or python scripts/bench.py. Figures are of the machine that it runs on.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import numpy

from ftadvisor import estimate
from ftadvisor.advice.question import Question
from ftadvisor.api.recommender import answer
from ftadvisor.api.situation import question_of, situation_of
from ftadvisor.configuration.settings import resolve
from ftadvisor.errors import MissingExtraError
from ftadvisor.estimation.prediction import adapter_of, predict_memory
from ftadvisor.estimation.time import step_time
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.coefficients import (
    memory_coefficients,
    memory_intervals,
    time_coefficients,
    time_intervals,
)
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.models import find_model, model_config
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, find_trainer
from ftadvisor.sources.workloads import reference_workload
from ftadvisor.units import MICROSECOND, MILLISECOND

MODEL, GPU, TECHNIQUE = "llama-7b", "rtx3090", "lora"
COMMAND = ["-m", "ftadvisor", "estimate", "--model", MODEL, "--gpu", "rtx3060"]
YARDSTICK = ["-c", "import pydantic, rich.console"]
RECOMMEND = [
    "-m", "ftadvisor", "recommend", "--model", "llama3.1-8b", "--gpu", "rtx4090",
    "--use-case", "chat",
]  # fmt: skip
RECOMMEND_YARDSTICK = ["-c", "import pydantic, rich.console, numpy"]
COMMAND_RUNS = 11
WIDE = 100_000


def seconds_of(work: Callable[[], object], runs: int) -> float:
    """Median wall time of one call [s]."""
    taken: list[float] = []
    for _ in range(runs):
        start = perf_counter()
        work()
        taken.append(perf_counter() - start)
    return statistics.median(taken)


def one_estimate_seconds(runs: int = 1000) -> float:
    """One warm `estimate()` with memory, time and cost, its lengths not seen before [s]."""
    lengths = iter(range(512, 512 + runs + 1))

    def work() -> object:
        return estimate(MODEL, gpu=GPU, technique=TECHNIQUE, max_length=next(lengths))

    work()
    return seconds_of(work, runs)


def settings_per_second(count: int = 100_000, runs: int = 9) -> float:
    """Settings whose memory and time are computed in a second, `count` of them at once."""
    model, gpu = find_model(MODEL).spec, find_gpu(GPU)
    trainer, technique = find_trainer(DEFAULT_TRAINER), find_technique(TECHNIQUE)
    one = resolve({}, model, technique, "sft", trainer, gpu, reference_workload(None)).settings
    many = varied(one, count)

    def work() -> object:
        adapter = adapter_of(model, many, trainer, technique)
        memory = predict_memory(
            model,
            many,
            trainer,
            adapter,
            memory_coefficients(),
            memory_intervals(),
            gpu.usable_bytes,
        )
        time = step_time(model, many, trainer, adapter, gpu, time_coefficients(), time_intervals())
        assert numpy.size(memory.device.high) == numpy.size(time.step_seconds) == count
        return memory, time

    work()
    return count / seconds_of(work, runs)


def varied(one: Settings, count: int) -> Settings:
    """`one` with arrays of `count` batch sizes, lengths and ranks."""
    random = numpy.random.default_rng(0)
    longest = random.integers(64, 4096, count)
    return replace(
        one,
        micro_batch_size=random.integers(1, 64, count),
        max_length=longest,
        longest_length=longest,
        typical_length=0.6 * longest,
        mean_padded_length=0.5 * longest,
        mean_length=0.4 * longest,
        lora_r=random.integers(1, 256, count),
    )


def wide_question() -> Question:
    """A question with more than 100,000 candidates: an 8B model, every GPU that has a price."""
    given = {
        "use_case": "instruction", "data_format": "instruction", "num_examples": 20_000,
        "mean_length": 450, "budget_usd": 50,
    }  # fmt: skip
    question = question_of(situation_of(None, "any", None, None, given), "llama3.1-8b")
    counts = (1, 2, 3, 4, 6, 8, 12, 16)
    return replace(question, offers=tuple(o._replace(counts=counts) for o in question.offers))


def candidates_per_second(runs: int = 3) -> float:
    """Candidates that are evaluated and chosen from in a second, in a search of 100,000 or more."""
    question = wide_question()
    sizes: list[int] = []

    def work() -> None:
        sizes.append(answer(question).found.num_candidates)

    work()
    assert sizes[0] >= WIDE, sizes
    return sizes[0] / seconds_of(work, runs)


def command_seconds(arguments: Sequence[str], yardstick: Sequence[str]) -> tuple[float, float]:
    """Two whole Python processes, in turn, their modules compiled [s].

    Exit code 1 only says that nothing fits. Nobody's measurements are read.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    taken: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as home:
        environment["FTADVISOR_HOME"] = home
        for _ in range(COMMAND_RUNS + 1):
            for words, seconds in zip((arguments, yardstick), taken, strict=True):
                start = perf_counter()
                subprocess.run(
                    [sys.executable, *words],
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    check=False,
                )
                seconds.append(perf_counter() - start)
    # The first of each compiles.
    whole, least = (statistics.median(seconds[1:]) for seconds in taken)
    return whole, least


SIMULATED = {
    "7B LoRA": ("llama-7b", "lora", 2.0),
    "70B LoRA": ("llama-2-70b", "lora", 3.0),
    "Mixtral LoRA": ("mixtral-8x7b", "lora", 8.0),
    "Gemma 3 LoRA": ("google/gemma-3-1b-it", "lora", 8.0),
}
"""What is simulated, and the seconds that it may take about."""


def simulation_seconds(model: str, technique: str, runs: int = 3) -> float:
    """One simulated step after imports, nothing kept from before [s]."""
    from ftadvisor.api.simulating import settings_of
    from ftadvisor.simulation.summary import summarized

    closed = estimate(model, gpu="a100-80gb", technique=technique)
    gpu, trainer = find_gpu("a100-80gb"), find_trainer(closed.trainer)
    config, settings = model_config(model), settings_of(closed)

    def work() -> object:
        return summarized(config, settings, trainer, gpu, (8, 0), 0.0)

    return seconds_of(work, runs)


def simulations() -> None:
    """Print the time of each simulation, or why there is none."""
    try:
        simulation_seconds("gpt2", "full", runs=1)
    except MissingExtraError as error:
        print(f"simulations          skipped: {error}")
        return
    for name, (model, technique, bound) in SIMULATED.items():
        seconds = simulation_seconds(model, technique)
        print(f"{name:21}{seconds:10.2f} s simulated (bound: about {bound:g} s)")


def main() -> None:
    """Print all figures."""
    print(f"one estimate()       {one_estimate_seconds() / MICROSECOND:10,.0f} µs")
    print(f"settings at once     {settings_per_second():10,.0f} a second, memory and time of each")
    per_second = candidates_per_second(runs=9)
    print(f"candidates searched  {per_second:10,.0f} a second, chosen from too")
    print(f"{WIDE:,} candidates   {WIDE / per_second / MILLISECOND:10,.0f} ms")
    for name, command, imports, yardstick in (
        ("estimate", COMMAND, "pydantic, rich", YARDSTICK),
        ("recommend", RECOMMEND, "pydantic, rich, numpy", RECOMMEND_YARDSTICK),
    ):
        whole, least = command_seconds(command, yardstick)
        print(f"ftadvisor {name:11}{whole / MILLISECOND:10,.0f} ms")
        print(f"its imports          {least / MILLISECOND:10,.0f} ms: {imports}")
        print(f"ratio                {whole / least:10.2f}")
    simulations()


if __name__ == "__main__":
    main()

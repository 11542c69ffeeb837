"""Several processes that train as one: how they are started, and how they share the model.

torchrun starts them: `accelerate launch --cpu` runs a single one, whatever number it is given
(accelerate 1.15 commands/launch.py, study 2.5). The strategy goes to the Trainer as arguments; the
same as an accelerate configuration lets a cluster's own launcher run the plan.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftadvisor.errors import FtadvisorError, InvalidSettingError, UnsupportedError
from ftadvisor.execution import stack
from ftadvisor.schema.report import Event, Status
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings, Strategy
from ftadvisor.units import HOUR

CONFIGURATION = "accelerate.yaml"
LAUNCHED = "FTADVISOR_LAUNCHED"
"""Set for the processes that `start` starts: the one that started them prints."""
RAN_OUT = "FTADVISOR_RAN_OUT"
"""What the attempts before ran out of memory with, for the processes of the next one: events."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torchrun looks for what a process failed of (torch 2.13 distributed/elastic)."""
WAITS_SECONDS = int(HOUR)
"""Of torchrun after a signal: its own 30 s (torch 2.13 distributed/launcher/api.py line 148) would
kill its processes while they finish a step and write a checkpoint, which take minutes of a large
model. A second signal ends them at once."""
FOLLOWS_SECONDS = 5
"""Within so many seconds the end of one process makes the others fail: torchrun looks every 0.1 s,
and kills what does not end 30 s later."""
ZERO = {"zero1": 1, "zero2": 2, "zero3": 3}
FSDP = {"fsdp": True, "fsdp-shard-grad-op": False}
"""Strategy to whether a layer's weights are given away again after its forward pass."""


def is_worker() -> bool:
    """Whether a launcher has started this process as one of several (or as the only one)."""
    return "WORLD_SIZE" in os.environ


def is_launched(settings: Settings) -> bool:
    """Whether torchrun starts it: several processes, or one that keeps something on the CPU by an
    engine that asks for a launcher.
    """
    return settings.num_gpus > 1 or settings.strategy in (*FSDP, *ZERO)


def speaks() -> bool:
    """Whether this process prints: the first one, and not where another one waits for it."""
    return os.environ.get("RANK", "0") == "0" and LAUNCHED not in os.environ


def strategy_arguments(settings: Settings) -> dict[str, Any]:
    """TrainingArguments for the plan's strategy; DDP needs none."""
    if settings.strategy in FSDP:
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                # By the model's own list of layer classes (_no_split_modules).
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": FSDP[settings.strategy],
                "cpu_offload": settings.offload_params,
                # Transformers' own does it, which gathers no more: accelerate's draws dropout anew
                # when it computes again (1.15 utils/fsdp_utils.py line 722), and the gradients are
                # of another function than the loss.
                "activation_checkpointing": False,
                # An accelerate launcher would have it, and processes without weights, where they
                # are loaded after it has joined them.
                "cpu_ram_efficient_loading": False,
                "state_dict_type": "FULL_STATE_DICT",
            },
        }
    if settings.strategy in ZERO:
        return {"deepspeed": _deepspeed(settings)}
    return {}


def strategy_of(args: Any) -> Strategy:
    """The other way round: how the processes of a trainer with these arguments share the model."""
    if args.world_size == 1:
        return "none"
    deepspeed = args.deepspeed_plugin
    if deepspeed is not None:
        stages = {stage: name for name, stage in ZERO.items()}
        return cast("Strategy", stages.get(int(deepspeed.zero_stage), "ddp"))
    # accelerate's own configuration sets the variable, TrainingArguments the field.
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        config = cast("dict[str, Any]", args.fsdp_config or {})
        kept = str(config.get("reshard_after_forward")).lower() in ("false", "shard_grad_op")
        return "fsdp-shard-grad-op" if kept else "fsdp"
    return "ddp"


def _deepspeed(settings: Settings) -> dict[str, Any]:
    """DeepSpeed's configuration; `auto` is filled in from the Trainer's own arguments."""
    # A buffer of DeepSpeed's own 500 million gradients takes 1 or 2 GB, however few are trained;
    # Transformers' auto is the square of the hidden size.
    zero: dict[str, Any] = {"stage": ZERO[settings.strategy], "reduce_bucket_size": "auto"}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload_params:
        zero["offload_param"] = {"device": "cpu"}
    if settings.strategy == "zero3":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
            "gradient_clipping")  # fmt: skip
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        # The plan's optimizer stays, also where its states are offloaded.
        "zero_force_ds_cpu_optimizer": False,
        **dict.fromkeys(auto, "auto"),
    }


def accelerate_configuration(settings: Settings, *, gpu: bool) -> dict[str, Any]:
    """The same for `accelerate launch --config_file` (accelerate 1.15 ClusterConfig)."""
    found: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if gpu else "MULTI_CPU",
        "mixed_precision": "no" if settings.autocast == "none" else settings.autocast,
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": int(settings.num_gpus),
        "main_training_function": "main",
        "use_cpu": not gpu,
    }
    given = strategy_arguments(settings)
    if not is_launched(settings):
        return {**found, "distributed_type": "NO"}
    if "fsdp" in given:
        names = {"cpu_offload": "offload_params"}
        found["distributed_type"] = "FSDP"
        found["fsdp_config"] = {
            f"fsdp_{names.get(name, name)}": value for name, value in given["fsdp_config"].items()
        }
    elif "deepspeed" in given:
        on_cpu = {name: "cpu" if is_set else "none" for name, is_set in (
            ("offload_optimizer_device", settings.offload_optimizer),
            ("offload_param_device", settings.offload_params))}  # fmt: skip
        found["distributed_type"] = "DEEPSPEED"
        found["deepspeed_config"] = {
            "zero_stage": ZERO[settings.strategy],
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "zero3_save_16bit_model": settings.strategy == "zero3",
            **on_cpu,
        }
    return found


def words_of(plan_file: Path, run: RunSettings) -> list[str]:
    """The words after `ftadvisor` that run a written plan as this one is run."""
    found = ["run", str(plan_file)]
    for field in fields(run):
        value: Any = getattr(run, field.name)
        flag = "--" + field.name.replace("_", "-")
        if field.name == "output_dir" or value != field.default:
            if isinstance(value, bool):
                found.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                many = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
                found += [flag, *map(str, many)]
    return found


def command_of(words: list[str], settings: Settings) -> list[str]:
    """The command that runs these words in as many processes as the settings say."""
    if not is_launched(settings):
        return ["ftadvisor", *words]
    return ["torchrun", *_options(int(settings.num_gpus)), "-m", "ftadvisor", *words]


def start(words: list[str], processes: int, before: Sequence[Event] = ()) -> None:
    """Run these words in as many processes of this machine, and wait for them; `before`: what
    `ran_out` says in them.

    Raises a ProcessError with what the first process to fail has said, KeyboardInterrupt at a
    signal.
    """
    here = stack.torch.cuda.device_count() if stack.torch.cuda.is_available() else processes
    if here < processes:
        raise InvalidSettingError(
            f"{processes} processes need as many GPUs, and {here} are here.",
            [f"--num-processes {here}"],
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[LAUNCHED] = "1"
    os.environ[RAN_OUT] = json.dumps([event._asdict() for event in before])
    torchrun, failed, signalled = stack.torchrun()
    # It tells of each process what the error says below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with _signals_kept():
            torchrun([*_options(processes), "-m", "ftadvisor", *words])
    except failed as error:
        raise _first(error.failures) from None
    except signalled as told:
        # The processes have been told, and have ended.
        raise KeyboardInterrupt(str(told)) from None
    finally:
        del os.environ[LAUNCHED], os.environ[RAN_OUT]


def ran_out() -> list[Event]:
    """Of the attempts before this one: each was with larger micro-batches than the next."""
    return [Event(**row) for row in json.loads(os.environ.get(RAN_OUT, "[]"))]


class ProcessError(InvalidSettingError):
    """One of several processes has failed, and the others with it."""

    def __init__(self, message: str, suggestions: list[str], failed: Failed) -> None:
        super().__init__(message, suggestions)
        self.failed = failed


class Failed(NamedTuple):
    """Of which process it is said."""

    rank: int
    status: Status | None
    """Of its run; None: it never got so far."""
    again: Event | None = None
    """Why it is to be started again, with smaller micro-batches; None: it is not."""


def _first(failures: dict[int, Any]) -> ProcessError:
    """Why the processes failed: when one is gone, those that wait for it say so at once."""
    began = min(failure.timestamp for failure in failures.values())
    for rank, failure in failures.items():
        # torchrun itself ends the others by SIGTERM.
        killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        if killed and failure.timestamp <= began + FOLLOWS_SECONDS:
            name = signal.Signals(-failure.exitcode).name
            what = f"Process {rank} was ended by {name}, by another program or for want of memory."
            return ProcessError(what, ["free -h, nvidia-smi"], Failed(rank, "failed"))
    words = {rank: cast("object", failure.message) for rank, failure in failures.items()}
    told = {rank: cast("dict[str, Any]", w) for rank, w in words.items() if isinstance(w, dict)}
    if told:
        rank = min(told, key=lambda rank: int(told[rank]["nanoseconds"]))
        said = told[rank]
        again = Event(**said["again"]) if said.get("again") else None
        failed = Failed(rank, said["status"], again)
        return ProcessError(said["message"], said["suggestions"], failed)
    rank = min(failures, key=lambda rank: failures[rank].timestamp)
    what = f"Process {rank} ended with exit code {failures[rank].exitcode}."
    return ProcessError(what, ["FTADVISOR_DEBUG=1, which shows where"], Failed(rank, None))


@contextmanager
def _signals_kept() -> Generator[None]:
    """torchrun leaves handlers of its own behind, and Ctrl-C would no longer be a person's.

    (torch 2.13 distributed/elastic/multiprocessing/api.py, PContext.start: in the main thread.)
    """
    own = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in own.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


def hand_over(
    error: FtadvisorError, status: Status | None = None, again: Event | None = None
) -> bool:
    """Leave an error for the process that waits, which keeps the first one; False: none does.

    `again`: it may start all of them again, with smaller micro-batches.
    """
    path = os.environ.get(ERROR_FILE)
    if LAUNCHED not in os.environ or not path:
        return False
    if os.path.exists(path):
        return True
    # torchrun reads seconds, within which all of them have failed.
    said = {"message": error.message, "suggestions": list(error.suggestions), "status": status,
            "again": again and again._asdict(), "nanoseconds": time.time_ns()}  # fmt: skip
    content = {"message": {**said, "extraInfo": {"timestamp": int(time.time())}}}
    Path(path).write_text(json.dumps(content), encoding="utf-8")
    return True


def check_strategy(settings: Settings, *, cpu: bool) -> Iterator[str]:
    """What of the strategy this machine can do. Raises UnsupportedError with what works instead."""
    if settings.strategy in FSDP and cpu:
        raise UnsupportedError.of(
            f"strategy {settings.strategy} on a CPU",
            "Transformers' Trainer makes plain DDP of it there, without a word",
            ["--strategy ddp"],
        )
    if settings.strategy in (*FSDP, "zero3") and settings.quantization == "int8":
        raise UnsupportedError.of(
            f"int8 with strategy {settings.strategy}", "its weights cannot be divided",
            ["--quantization nf4", "--strategy ddp"],
        )  # fmt: skip
    if settings.num_gpus > 1:
        yield f"{settings.num_gpus} processes share the work by {settings.strategy}"


def check_trainer(trainer: Any, settings: Settings) -> None:
    """The trainer has become what the plan says. Raises UnsupportedError where it has not."""
    world = trainer.args.world_size
    shared = {"fsdp": trainer.is_fsdp_enabled, "zero": trainer.is_deepspeed_enabled}
    lost = [name for name, is_on in shared.items() if settings.strategy.startswith(name) != is_on]
    if world != settings.num_gpus or (is_launched(settings) and lost):
        kind = f", and {lost[0]} is not as planned" if lost else ""
        raise UnsupportedError.of(
            f"{settings.num_gpus} processes with strategy {settings.strategy}",
            f"the libraries started {world}{kind}",
            ["ftadvisor run, which starts torchrun itself"],
        )


def _options(processes: int) -> list[str]:
    return [
        "--standalone", "--nproc-per-node", str(processes),
        "--shutdown-timeout", str(WAITS_SECONDS),
    ]  # fmt: skip

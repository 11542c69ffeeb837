"""What is checked before anything expensive starts; cheap checks first.

A check is a function that raises a FtadvisorError to refuse, and yields what the report's reader
should know. `EARLY` imports nothing heavy; `LATE` knows the device.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ftadvisor.configuration.adapter_config import NOT_PEFT
from ftadvisor.configuration.applicable import PACKED
from ftadvisor.configuration.sharded import QUANTIZED_BYTES, SHARDING, host_bytes
from ftadvisor.errors import (
    InvalidSettingError,
    MissingExtraError,
    UnsupportedError,
    near_misses,
    quoted,
)
from ftadvisor.execution import stack
from ftadvisor.execution.checkpoints import KEPT
from ftadvisor.execution.classes import own_classes
from ftadvisor.execution.device import Device, free_host_bytes
from ftadvisor.execution.examples import Examples
from ftadvisor.execution.kernels import attention, check_liger, checkpoint, head, packages
from ftadvisor.execution.launching import CONFIGURATION, LAUNCHED, ZERO, check_strategy
from ftadvisor.execution.merging import refusal
from ftadvisor.execution.pictures import check_sees
from ftadvisor.execution.places import cannot_be_written, check_place
from ftadvisor.execution.preferences import POLICY, check_batch
from ftadvisor.execution.resuming import check_same
from ftadvisor.execution.starts import check_start
from ftadvisor.execution.teachers import teacher
from ftadvisor.execution.unpacking import BASE
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Event
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gguf import gguf_file
from ftadvisor.sources.models import find_model, model_config
from ftadvisor.sources.plans import PLAN_FILE, plan_text
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, TRAINERS_OF_OBJECTIVES
from ftadvisor.units import format_bytes

EXTRA = "run"
NOT_RUN = NOT_PEFT - {"full", "galore"}
PACKAGES = {
    "galore": "galore_torch", "apollo": "apollo_torch", "schedule_free": "schedulefree",
    "lomo": "lomo_optim", "adalomo": "lomo_optim", "grokadamw": "grokadamw", "stable": "optimi",
    "adamw_torch_4bit": "torchao", "adamw_torch_8bit": "torchao",
}  # fmt: skip
"""Optimizers of Transformers' that are other packages': transformers 5.23 trainer_optimizer.py."""
NOT_TOLD = ("flyte", "azure_ml")
"""Reporters whose packages Transformers does not look for by their names (transformers 5.23
integration_utils.py, get_available_reporting_integrations)."""
FORCED = "--force runs it all the same"
OF_OPTIONS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")
"""Schedules that ask for lr_scheduler_kwargs (transformers 5.23 optimization.py)."""
UNWARMED = ("constant", "reduce_lr_on_plateau")
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
MOMENTS_BYTES = 8
"""AdamW's two states of a trained parameter in fp32: what a checkpoint holds beside it."""


class Subject(NamedTuple):
    """What there is to check."""

    plan: Plan
    settings: Settings
    run: RunSettings
    examples: Examples
    estimate_on: Callable[[str], Estimate | None]
    """The plan's estimate on the GPU that a driver calls by this name."""


def libraries(of: Subject) -> Iterator[Event]:
    """The versions that the `run` extra pins: older ones lack what is used here."""
    try:
        stated = metadata.requires("ftadvisor") or []
    except metadata.PackageNotFoundError:
        return
    for line in stated:
        match = re.match(r"([\w-]+)==([\d.]+)\.\*\s*;.*extra == ['\"]run['\"]", line)
        if match is None:
            continue
        name, wanted = match.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise MissingExtraError("run", EXTRA) from None
        if _numbers(found)[: len(_numbers(wanted))] == _numbers(wanted):
            continue
        if _numbers(found) < _numbers(wanted):
            raise InvalidSettingError(
                f"{name} {found} is too old: {wanted} is needed.",
                [f"pip install --upgrade 'ftadvisor[{EXTRA}]'"],
            )
        yield Event("libraries", 0, f"{name} {found} is newer than {wanted}, which was tested")


def output_dir(of: Subject) -> Iterator[Event]:
    """The directory must be new or empty, nothing is overwritten; or hold the run that goes on."""
    place = Path(of.run.output_dir)
    if of.run.resume:
        check_same(of.plan, of.run, of.examples)
        yield from ()
        return
    check_place(place, partial(_is_ours, of))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_written(place, error.strerror or str(error)) from None
    yield from ()


def _is_ours(of: Subject, holds: list[str]) -> bool:
    """What `--print-command` or the process that started this one has put there."""
    if int(os.environ.get("RANK", "0")) > 0:
        return True
    if not {*holds} <= {PLAN_FILE, CONFIGURATION}:
        return False
    written = Path(of.run.output_dir) / PLAN_FILE
    return PLAN_FILE not in holds or plan_text(of.plan) == written.read_text(encoding="utf-8")


def disk(of: Subject) -> Iterator[Event]:
    """Room for what is saved, and for the checkpoints that are kept while another is written."""
    trained = of.plan.estimate.num_trainable_params
    whole = find_technique(of.plan.technique).trains_base
    dtype = of.settings.weights_dtype if whole else of.settings.adapter_dtype
    needed = trained * DTYPE_BYTES[dtype]
    if of.run.save_steps:
        needed += (KEPT + 1) * trained * (DTYPE_BYTES[dtype] + MOMENTS_BYTES)
    # Beside it the model itself: an adapter merged into it, a GGUF file unpacked.
    base = Path(of.run.output_dir) / BASE
    is_packed = gguf_file(of.plan.model) is not None and not base.exists()
    copies = (of.run.merge and not whole) + is_packed
    needed += copies * of.plan.estimate.num_params * DTYPE_BYTES[of.settings.weights_dtype]
    free = shutil.disk_usage(of.run.output_dir).free
    if needed > free and not of.run.force:
        raise InvalidSettingError(
            f"output_dir {quoted(of.run.output_dir)} has {format_bytes(free)} free, and"
            f" {format_bytes(needed)} will be written.",
            ["--output-dir on another disk", FORCED],
        )
    yield from ()


def settings(of: Subject) -> Iterator[Event]:
    """Settings that the libraries' trainers cannot do here are refused, not left out."""
    s, objective = of.settings, of.plan.objective
    usual = TRAINERS_OF_OBJECTIVES.get(objective, DEFAULT_TRAINER)
    if of.plan.estimate.trainer != usual:
        raise UnsupportedError.of(
            f"Running with {of.plan.estimate.trainer}", f"{objective} is run by {usual}",
            [f"trainer {usual}"],
        )  # fmt: skip
    kernel = "chunked" if usual == DEFAULT_TRAINER else "torch"
    refused = {
        f"loss_kernel {s.loss_kernel}": (s.loss_kernel != kernel, f"--loss-kernel {kernel}"),
        "fp8": (s.fp8, "--precision bf16"),
        "fused_lora": (s.fused_lora, "without it"),
        "selective checkpointing": (
            # TRL 1.16 has it in SFTTrainer alone (trainer/sft_trainer.py line 1085).
            s.gradient_checkpointing == "selective" and objective not in PACKED,
            "--gradient-checkpointing full",
        ),
        "packing of this objective": (
            s.packing and objective not in PACKED, "--no-packing",
        ),
    }  # fmt: skip
    for what, (is_set, instead) in refused.items():
        if is_set:
            raise UnsupportedError.of(what, f"{usual} has it not for {objective}", [instead])
    if of.plan.technique == "prefix_tuning" and s.gradient_checkpointing != "none":
        raise UnsupportedError.of(
            "prefix_tuning with gradient checkpointing", "PEFT refuses it",
            ["--gradient-checkpointing none"],
        )  # fmt: skip
    if objective in POLICY:
        check_batch(objective, s, len(of.examples.train))
    yield from ()


def schedule(of: Subject) -> Iterator[Event]:
    """A schedule that asks for more than a plan says, or does not do all that it says."""
    name = of.plan.settings["lr_scheduler_type"]
    warmup = of.plan.settings["warmup_steps"]
    if name in OF_OPTIONS:
        raise UnsupportedError.of(
            f"lr_scheduler_type {name}", "Transformers asks for options of it that no plan has",
            ["lr_scheduler_type: cosine"],
        )  # fmt: skip
    if name == "reduce_lr_on_plateau" and not (of.run.eval_steps and of.examples.held_out):
        raise InvalidSettingError(
            f"lr_scheduler_type {name} goes by evaluations in the middle of the training, and there"
            " are none.",
            ["--eval-steps 50, with rows held out", "lr_scheduler_type: cosine"],
        )
    if name in UNWARMED and warmup:
        what = f"warmup_steps {warmup:g}: lr_scheduler_type {name} has no warmup"
        yield Event("settings", 0, what)


def technique(of: Subject) -> Iterator[Event]:
    """A technique that nothing here trains, or an optimizer whose package is missing."""
    if of.plan.technique in NOT_RUN:
        name = find_technique(of.plan.technique).name
        raise UnsupportedError.of(f"Running {name}", "PEFT has it not", ["lora", "full"])
    if of.settings.strategy in ZERO and find_spec("deepspeed") is None:
        raise InvalidSettingError(
            f"strategy {of.settings.strategy} needs the package deepspeed, which is not installed.",
            ["pip install deepspeed", "--strategy fsdp"],
        )
    for prefix, package in PACKAGES.items():
        if of.settings.optim.startswith(prefix) and find_spec(package) is None:
            raise InvalidSettingError(
                f"optim {of.settings.optim} needs the package {package}, which is not installed.",
                [f"pip install {package.replace('_', '-')}", "--optim adamw_torch_fused"],
            )
    yield from ()


def merging(of: Subject) -> Iterator[Event]:
    """A technique that no base can hold is not trained to be merged."""
    reason = refusal(of.plan.technique)
    if of.run.merge and reason is not None:
        name = find_technique(of.plan.technique).name
        raise UnsupportedError.of(
            f"Merging {name}", reason, ["without --merge: PEFT loads the adapter", "lora"]
        )
    yield from ()


def classes(of: Subject) -> Iterator[Event]:
    """Labels that a checkpoint's own head has not are outside its range."""
    labels = of.examples.labels
    if not labels:
        return
    named = own_classes(model_config(of.plan.model), of.plan.objective)
    if named is None:
        return
    own = {str(name) for name in named}
    numbers = {str(i) for i in range(len(own))}
    if not {*labels} <= own and not {*labels} <= numbers:
        strange = sorted({*labels} - own - numbers) or sorted({*labels} - own)
        raise InvalidSettingError(
            f"label {quoted(strange[0])} is outside the checkpoint's {len(own)} classes"
            f" ({', '.join(sorted(own)[:5])}).",
            ["a base model without a head of its own", "labels of that range"],
        )
    yield from ()


def images(of: Subject) -> Iterator[Event]:
    """Images need a model that reads them, and samples that are not joined."""
    if not of.examples.has_images:
        return
    check_sees(of.plan.model, find_model(of.plan.model).spec.family)
    if of.settings.packing:
        raise UnsupportedError.of("Packing of images", "TRL refuses it", ["--no-packing"])
    if not of.settings.num_images:
        yield Event("data", 0, "num_images 0: the estimate counts none of the rows' images")


def data(of: Subject) -> Iterator[Event]:
    """What was left out, and what is held out."""
    e = of.examples
    if e.left_out:
        first = "; ".join(f"line {p.line} {p.what}" for p in e.left_out[:3])
        yield Event("data", 0, f"{len(e.left_out):,} rows left out ({first})")
    held = f"{len(e.held_out):,} held out" if e.held_out else "none held out: nothing is evaluated"
    yield Event("data", 0, f"{len(e.train):,} examples to train on, {held}")
    wanted = {repr(row) for row in e.held_out}
    known = {text for row in e.train if (text := repr(row)) in wanted}
    again = sum(repr(row) in known for row in e.held_out)
    if again:
        what = f"{again:,} of the held-out examples stand among those that are trained on too"
        yield Event("data", 0, f"{what}: how it does on new ones is not measured by them")


def hardware(of: Subject, device: Device) -> Iterator[Event]:
    """The device is the plan's, or the plan names none."""
    wanted, count = of.plan.hardware.gpu, of.plan.hardware.num_gpus
    if device.is_cpu and wanted not in (None, device.name) and not of.run.force:
        raise InvalidSettingError(
            f"The plan is for {count} × {wanted}, and there is no GPU here.",
            ["hardware: {gpu: null} in the plan", "--force, which trains on the CPU"],
        )
    if device.world_size != count:
        raise InvalidSettingError(
            f"The plan is for {count} processes, one a GPU, and this is one of"
            f" {device.world_size}.",
            [f"torchrun --nproc-per-node {count}", "num_gpus 1"],
        )
    if device.is_cpu and of.settings.autocast == "fp16":
        raise UnsupportedError.of(
            "fp16 on a CPU", "Transformers takes it and computes in fp32", ["--precision amp-bf16"]
        )
    if device.is_cpu and of.settings.attn_implementation == "flash_attention_2":
        raise UnsupportedError.of(
            "flash_attention_2 on a CPU", "its kernels are a GPU's", ["--attn-implementation sdpa"]
        )
    if device.is_cpu and of.settings.optim == "galore_adamw_8bit":
        raise UnsupportedError.of(
            "optim galore_adamw_8bit on a CPU",
            "its states are a GPU's",
            ["--optim galore_adamw"],
        )
    spec = find_model(of.plan.model).spec
    for said in check_strategy(of.settings, cpu=device.is_cpu):
        yield Event("device", 0, said)
    check_liger(of.settings, spec.model_type, on_cpu=device.is_cpu)
    if device.is_cpu and of.settings.optim.startswith("paged_"):
        yield Event("device", 0, f"optim {of.settings.optim}: bitsandbytes pages nothing on a CPU")
    yield Event("device", 0, f"trains on {device.name}")


def memory(of: Subject, device: Device) -> Iterator[Event]:
    """The plan's estimate against the memory that is here."""
    estimate = of.estimate_on(device.name) or of.plan.estimate
    needed = estimate.memory.device_bytes
    if device.is_cpu:
        # malloc gives back what is freed; all processes share what there is.
        needed = estimate.memory.allocated_bytes * device.world_size
    if estimate.gpu not in (None, of.plan.hardware.gpu):
        yield Event("device", 0, f"on {estimate.gpu} it needs {format_bytes(needed)}")
    if needed > device.memory_bytes and not of.run.force:
        raise InvalidSettingError(
            f"The run needs {format_bytes(needed)}, and {device.name} has"
            f" {format_bytes(device.memory_bytes)}.",
            [f"ftadvisor recommend --gpu {shlex.quote(device.name)}", FORCED],
        )


def host(of: Subject, device: Device) -> Iterator[Event]:
    """Each process quantises in the host's memory what an engine divides; what is not quantised
    are pages of the checkpoint's file, which processes share."""
    s = of.settings
    divided = s.quantization in QUANTIZED_BYTES and s.strategy in SHARDING
    # Where another process started this one it has looked, before any began to load.
    if device.is_cpu or LAUNCHED in os.environ or not divided:
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", device.world_size))
    needed = here * host_bytes(of.plan.estimate.num_params, s.quantization, s.weights_dtype)
    if needed > (free := free_host_bytes()) and not of.run.force:
        raise InvalidSettingError(
            f"Loading needs {format_bytes(needed)} of the host's memory, the whole model for each"
            f" process, and {format_bytes(free)} is free.",
            ["a larger swap file", FORCED],
        )
    yield from ()


def reporters(of: Subject, device: Device) -> Iterator[Event]:
    """Reporters that Transformers knows and whose packages are here: it looks when the model is
    loaded already.
    """
    named = of.run.report_to
    if not named or named in (("all",), ("none",)):
        return
    theirs = stack.transformers.integrations.integration_utils
    known, here = [*theirs.INTEGRATION_TO_CALLBACK], theirs.get_available_reporting_integrations()
    for name in named:
        if name not in known:
            raise InvalidSettingError(
                f"report_to {quoted(name)} is no reporter of Transformers'.",
                near_misses(name, known) or known,
            )
        if name not in (*here, *NOT_TOLD):
            raise InvalidSettingError(
                f"report_to {name} needs a package that is not installed.", [f"pip install {name}"]
            )
    yield from ()


EARLY: tuple[Callable[[Subject], Iterable[Event]], ...] = (
    libraries, settings, schedule, packages, head, attention, checkpoint, technique, check_start,
    merging, teacher, images, classes, output_dir, disk, data,
)  # fmt: skip
LATE: tuple[Callable[[Subject, Device], Iterable[Event]], ...] = (
    hardware, memory, host, reporters,
)  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))

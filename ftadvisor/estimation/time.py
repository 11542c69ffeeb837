"""How long a step takes: work over rates, a launch floor, communication, and the run as a whole.

The form is a roofline per kind of work. What the GPU computes and what the host launches overlap;
the longer decides. Every share of a datasheet's rate is fitted by `calibration.time_fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftadvisor.estimation.activations import packing_needs_mask
from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.numerics import HALF_BYTES, PARAMETER_SHARDED, SHARDED, numerics
from ftadvisor.estimation.objectives import ANSWERS_IN_GROUPS, objective_cost
from ftadvisor.estimation.passes import cached_per_token
from ftadvisor.estimation.rates import Rates, rates
from ftadvisor.estimation.states import run_optimizer_bytes, trainable_dtype_bytes, weight_bytes
from ftadvisor.estimation.terms import AdapterBytes, attention_kernel
from ftadvisor.estimation.uncertainty import OTHER, Kind, interval
from ftadvisor.estimation.work import Work, micro_batch_work, parameter_bytes
from ftadvisor.schema.coefficients import Interval, TimeCoefficients
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import AttnImplementation, Number, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.schema.workload import Workload
from ftadvisor.units import HOUR, TERA

GPUS_PER_MACHINE = 8
"""Beyond these the network between machines is the link."""
CACHED_SHARE = 0.25
"""Time of a byte from the L2 cache over that of one from memory: 900 over 3,133 GB/s on a V100,
1,555 (or 2,039) over 7,219 on an A100, 3,352 over 8,986 on an H100, so 0.22 to 0.37; less where
memory is slower. Not fitted: the steps of one source alone show it, which so stays a test of it.
Ref: doi 10.1016/j.ultsonch.2023.106546, table 3; the datasheet of the A100 of 80 GB."""
CLIPPING_PASSES = 3
"""Gradients are read for their norm, then read and written (torch/nn/utils/clip_grad.py)."""


class StepTime(NamedTuple):
    """One optimizer step of all GPUs [s]."""

    micro_step_seconds: Number
    """Forward and backward of one micro-batch, and its share of the optimizer's step."""
    micro_step_low_seconds: Number
    micro_step_high_seconds: Number
    step_seconds: Number
    """All micro-batches of the step and the optimizer."""
    model_flops: Number
    """Of one micro-batch on one GPU, recomputation not counted [FLOPs]."""
    peak_flops_per_second: Number


class RunTime(NamedTuple):
    """A whole run."""

    tokens_per_second: Number
    """All GPUs, padding not counted."""
    step_seconds: Number
    total_seconds: Number
    total_low_seconds: Number
    total_high_seconds: Number
    mfu: Number
    energy_kwh: Number | None


def step_time(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    gpu: Gpu,
    c: TimeCoefficients,
    intervals: Mapping[str, Interval],
    host_slowness: float = 1.0,
) -> StepTime:
    """Seconds of a micro-step and of an optimizer step, padded batches at their mean length.

    `host_slowness`: of the machine's CPU, where it was measured.
    """
    found = interval(intervals, "time", time_kind(settings, trainer, gpu, c))
    r = rates(gpu, settings, trainer, c)._replace(host_slowness=host_slowness)
    return step_time_at(model, settings, trainer, adapter, r, c, found)


def step_time_at(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    r: Rates,
    c: TimeCoefficients,
    found: Interval,
) -> StepTime:
    """The same at given rates, one GPU's or several GPUs' as arrays, with its interval."""
    trained = adapter is None
    objective = objective_cost(settings, trains_base=trained)
    length = padded_length(settings) + (adapter.virtual_tokens if adapter else 0)
    if objective.generates:
        length = length + settings.max_completion_length
    kernel = attention_kernel(model, settings, trainer)
    row = packing_needs_mask(settings, trainer)
    work = micro_batch_work(
        model, settings, objective, length, kernel, trainer, trained=trained, one_row=row
    )
    tokens = settings.micro_batch_size * objective.sequences * length
    seconds = _computing(work, settings, kernel, tokens, r, c)
    launched = work.kernels
    if adapter is not None:
        # A pass over all layers runs half of what a forward and a backward do.
        kernels = adapter.kernels / 2 * work.layer_passes / sum(b.num_layers for b in model.blocks)
        seconds = seconds + moving_seconds(adapter, tokens, r, c) + c.kernel_seconds * kernels
        launched = launched + kernels
    launches = launch_seconds(launched, trainer, r, c)
    if settings.strategy == "fsdp":
        launches = launches + gathering_seconds(model, settings, r, c, trained=trained)
    waits = trainer.lora_waits and settings.technique in ("lora", "qlora")
    p = 1.0 if waits else c.overlap_power
    seconds = (seconds**p + launches**p) ** (1 / p)
    seconds = _with_communication(seconds, model, settings, trainer, r, c, trained=trained)
    steps = settings.gradient_accumulation_steps
    if objective.generates:
        prompt = length - settings.max_completion_length
        answers = _generation(model, settings, trainer, adapter, r, c, prompt)
        seconds = seconds + answers / steps
    # Published seconds of a micro-step are a throughput's: they hold the optimizer's share.
    seconds = seconds + _optimizer(model, settings, trainer, adapter, r) / steps
    return StepTime(
        seconds,
        seconds * found.low,
        seconds * found.high,
        steps * seconds,
        work.model_flops,
        r.peak,
    )


def padded_length(settings: Settings) -> Number:
    """Mean padded tokens per sequence: between the mean of samples and the longest."""
    return largest(settings.mean_padded_length, settings.mean_length)


def _computing(
    work: Work,
    settings: Settings,
    kernel: AttnImplementation,
    tokens: Number,
    r: Rates,
    c: TimeCoefficients,
) -> Number:
    half = c.half_tokens_per_teraflops * r.linear_peak / TERA
    saturated = tokens / (tokens + half)
    products = work.linear_flops + c.half_width * work.narrow_flops
    linear = products / (r.linear_peak * r.efficiency * saturated)
    share = c.attention_share.get(kernel) or c.attention_share["default"]
    if kernel != "eager":
        share = share * r.fused_attention
    attention = work.attention_flops / (r.peak * r.efficiency * share)
    moved = c.elementwise_passes * work.elementwise_bytes + work.logit_bytes
    moved = moved + c.score_passes * work.score_bytes
    seconds = linear + attention + moved / r.bandwidth
    if settings.quantization != "none":
        family = settings.quantization.partition("-")[0]
        each = c.dequantized_per_cycle.get(family) or c.dequantized_per_cycle["default"]
        seconds = seconds + work.dequantized_weights / (each * r.issue)
    return seconds


def moving_seconds(adapter: AdapterBytes, tokens: Number, r: Rates, c: TimeCoefficients) -> Number:
    """What an adapter's own operations take for what they move.

    They follow each other without a large weight between them, so that one finds in the L2 cache
    what the last one wrote. Between the writing and the reading of an element a tensor's size is
    read and another written: all is found where the cache holds two tensors, of larger ones its
    share of them.
    """
    tensor = tokens * adapter.tensor_per_token
    missed = largest(tensor - r.cache / 2, 0)
    each = CACHED_SHARE * tensor + (1 - CACHED_SHARE) * missed
    moved = c.adapter_passes * adapter.moved_tensors * each
    moved = moved + c.matrix_passes * adapter.moved_bytes
    return moved / r.bandwidth


def launch_seconds(kernels: Number, trainer: Trainer, r: Rates, c: TimeCoefficients) -> Number:
    """Host time of launching so many kernels [s]."""
    each = c.launch_seconds.get(trainer.id) or c.launch_seconds["default"]
    return (c.step_seconds + each * kernels) * r.host_slowness


def gathering_seconds(
    model: ModelSpec, settings: Settings, r: Rates, c: TimeCoefficients, *, trained: bool
) -> Number:
    """Host time of FSDP's gathers and scatters of all layers [s].

    DeepSpeed's hooks fetch ahead: its published steps show no such time.
    """
    layers = sum(b.num_layers for b in model.blocks)
    return c.gather_seconds * layers * _gathers(settings, trained=trained) * r.host_slowness


def _with_communication(
    seconds: Number,
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    r: Rates,
    c: TimeCoefficients,
    *,
    trained: bool,
) -> Number:
    """FSDP and ZeRO-3: weights gathered for forward, backward and a reference's forward, gradients
    scattered; DDP: gradients reduced.

    Offloaded weights first come from the CPU's memory, each rank its share.
    """
    if settings.strategy == "none":
        return seconds
    n = numerics(settings, trainer, trains_base=trained)
    stored = weight_bytes(model, settings, n, trainer).total
    exchanged = stored if n.kbit else parameter_bytes(settings) * model.num_params
    times = 0.0
    if settings.strategy in PARAMETER_SHARDED:
        times = _gathers(settings, trained=trained)
    elif trained:
        # A reduction moves as much as a scatter and a gather; accumulation does it once a step.
        times = 2.0 / settings.gradient_accumulation_steps
    gpus = settings.num_gpus
    link = select(gpus > GPUS_PER_MACHINE, r.network, r.link)
    moved = times * exchanged * (gpus - 1) / gpus / link
    if settings.offload_params:
        moved = moved + times * exchanged / gpus / r.host
    return largest(seconds, moved) + c.exposed * smallest(seconds, moved)


def _gathers(settings: Settings, *, trained: bool) -> float:
    """Times that a shard is gathered or scattered in a micro-batch."""
    frozen = objective_cost(settings, trains_base=trained).frozen_forwards
    return 2.0 + frozen + (1.0 if trained else 0.0)


def _generation(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    r: Rates,
    c: TimeCoefficients,
    prompt: Number,
) -> Number:
    """Decoding the answers of all micro-batches of an optimizer step together [s].

    Each token reads all weights as they are stored and the keys and values so far, multiplies, and
    is launched layer by layer. Weights that are not in half precision are cast or unpacked first:
    written and read once more. The prompts are read before, in one forward.
    """
    n = numerics(settings, trainer, trains_base=adapter is None)
    rows = settings.micro_batch_size * settings.gradient_accumulation_steps
    length = prompt + settings.max_completion_length / 2
    moved = weight_bytes(model, settings, n, trainer).total
    if n.kbit or n.weight != HALF_BYTES:
        moved = moved + 2 * HALF_BYTES * model.num_linear_weights
    moved = moved + rows * length * cached_per_token(model, n)
    weights = sum(b.num_layers * b.num_active_weights for b in model.blocks)
    each = 2.0 * rows / (r.peak * r.efficiency)
    multiplied = each * (weights + model.vocab_size * model.embedding_width)
    kernels = sum(b.num_layers for b in model.blocks) * model.kernels.frozen[0]
    if adapter is not None:
        kernels = kernels + adapter.kernels / 2
    launched = launch_seconds(kernels, trainer, r, c)
    decoded = settings.max_completion_length * largest(moved / r.bandwidth, multiplied, launched)
    return decoded + each * weights * prompt


def _optimizer(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    r: Rates,
) -> Number:
    """One rank's step: weights and states read and written, gradients read; and clipping [s]."""
    params = model.num_params if adapter is None else adapter.num_trainable_params
    n = numerics(settings, trainer, trains_base=adapter is None)
    each = trainable_dtype_bytes(settings, n, trainer)
    state = run_optimizer_bytes(settings, n, trainer, each).state
    passes = 3 + (CLIPPING_PASSES if settings.max_grad_norm else 0)
    moved = params * (passes * each + 2 * state)
    bandwidth = r.host if settings.offload_optimizer else r.bandwidth
    shards = settings.num_gpus if settings.strategy in SHARDED else 1
    return moved / shards / bandwidth


def time_kind(settings: Settings, trainer: Trainer, gpu: Gpu, c: TimeCoefficients) -> Kind:
    """The kind of a time prediction, the most telling word first."""
    return trainer.id if trainer.id in c.launch_seconds else OTHER, (
        "measured-gpu" if gpu.id in c.efficiency else "other-gpu",
        "quantized" if settings.quantization != "none" else "unquantized",
        "sharded" if settings.strategy in SHARDED else "whole",
    )


def run_time(
    step: StepTime, settings: Settings, workload: Workload, power_watts: float | None
) -> RunTime:
    """The whole run over a workload; its token count's own error widens the interval.

    Where completions are generated, an example is a prompt, answered `num_generations` times.
    """
    generates = objective_cost(settings, trains_base=True).generates
    answers = settings.num_generations if settings.objective in ANSWERS_IN_GROUPS else 1
    sequences = settings.micro_batch_size * settings.gradient_accumulation_steps * settings.num_gpus
    own = settings.max_length if settings.packing else settings.mean_length
    cut = workload.mean_tokens
    if not settings.packing:
        cut = smallest(cut, settings.max_length)
    steps = workload.num_examples * workload.num_train_epochs * answers * cut / own / sequences
    total = largest(steps, 1) * step.step_seconds
    completion = settings.max_completion_length if generates else 0
    low = step.micro_step_low_seconds / step.micro_step_seconds
    high = step.micro_step_high_seconds / step.micro_step_seconds
    # Independent errors add as squares.
    token_error = workload.token_error
    low = 1 - ((1 - low) ** 2 + token_error**2) ** 0.5
    high = 1 + ((high - 1) ** 2 + token_error**2) ** 0.5
    flops = step.model_flops * settings.gradient_accumulation_steps
    energy = None
    if power_watts is not None:
        energy = power_watts * settings.num_gpus * total / HOUR / WATTS_PER_KILOWATT
    return RunTime(
        tokens_per_second=sequences * (own + completion) / step.step_seconds,
        step_seconds=step.step_seconds,
        total_seconds=total,
        total_low_seconds=total * largest(low, SHORTEST_SHARE),
        total_high_seconds=total * high,
        mfu=flops / step.step_seconds / step.peak_flops_per_second,
        energy_kwh=energy,
    )


WATTS_PER_KILOWATT = 1000.0
SHORTEST_SHARE = 0.1
"""A run takes at least this share of its prediction: no error makes time negative."""

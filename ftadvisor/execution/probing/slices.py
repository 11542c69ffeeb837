"""A model's real layers, but few of them, trained for a few steps as its plan says.

Random weights from the configuration, no download; the plan's technique, quantisation, batch and
length, and the same trainers that a run has, on synthetic rows of one length.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ftadvisor.configuration.depths import depth, with_layers
from ftadvisor.errors import UnsupportedError
from ftadvisor.execution import stack
from ftadvisor.execution.adapting import adapt, set_adapter_dtype
from ftadvisor.execution.device import Device
from ftadvisor.execution.examples import Examples, Row
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.loading import blank_model
from ftadvisor.execution.out_of_memory import is_out_of_memory
from ftadvisor.execution.probing.extrapolation import pooled
from ftadvisor.execution.probing.machine import own_bytes
from ftadvisor.execution.tokenizing import Tokenizing
from ftadvisor.execution.trainers import BUILDERS, MAKES_THE_ADAPTER
from ftadvisor.execution.trainers.reward import HEAD
from ftadvisor.execution.training import Training
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.probe import Slice
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.techniques import find_technique

LAYERS = (2, 4)
SMALLER = (1, 2)
"""Where those run out of memory."""
ROUNDS, ENOUGH_SECONDS = 3, 20.0
"""The depths are timed in turns, so that a machine whose speed drifts is as slow for each of them;
no new turn after so long."""
MOST_STEPS = 64
WORDS = 500
OF_HEADS = {"seq_cls": ("no", "yes"), "token_cls": ("no", "yes"), "reward": HEAD}
"""What the head of a classifier is called by."""
REFERRING = ("dpo", "kto")
"""Objectives that read a second model's weights, where no adapter can be switched off instead."""


class TooLargeError(UnsupportedError):
    """Not even two layers fit."""


def probe_slices(
    plan: Plan, config: Mapping[str, Any], settings: Settings, device: Device
) -> tuple[Slice, ...]:
    """Slices of a plan's model, one for each depth; the out-of-memory ones among them. One alone
    where the model has no more layers than it: the whole model was measured.

    Raises TooLargeError where not even two layers fit.
    """
    made = transformers_config(config)
    end = time.monotonic() + ENOUGH_SECONDS
    first = _first_round(plan, made, settings, device)
    done = tuple(sorted((s for s in first if s.status == "done"), key=lambda s: s.layers))
    rounds = [done]
    while len(rounds) < ROUNDS and time.monotonic() < end:
        again = tuple(measured(plan, made, settings, device, s.layers, memory=False) for s in done)
        # Another process may have taken the memory.
        if any(one.status == "oom" for one in again):
            break
        rounds.append(again)
    return (*pooled(rounds), *(one for one in first if one.status == "oom"))


def _first_round(plan: Plan, config: Any, settings: Settings, device: Device) -> tuple[Slice, ...]:
    full = depth(config)
    found: dict[int, Slice] = {}
    for counts in (LAYERS, SMALLER):
        wanted = sorted({min(n, full) for n in counts})
        for n in wanted:
            found[n] = found.get(n) or measured(plan, config, settings, device, n)
        if all(found[n].status == "done" for n in wanted):
            return tuple(found.values())
    ran_at = {one.layers for one in found.values() if one.status == "done"}
    if len(ran_at) > 1 or full in ran_at:
        return tuple(found.values())
    # One depth alone does not tell a layer from the rest.
    raise TooLargeError(
        "this plan on this machine is not supported: two layers run out of memory.",
        ["a smaller batch"],
    )


def transformers_config(config: Mapping[str, Any]) -> Any:
    """Transformers' configuration object, with a token that pads."""
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    for name in ("quantization_config", "auto_map"):
        values.pop(name, None)
    made = stack.transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    made.pad_token_id = 0
    if made.is_encoder_decoder and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = 0
    return made


def measured(
    plan: Plan,
    config: Any,
    settings: Settings,
    device: Device,
    layers: int | None,
    *,
    memory: bool = True,
) -> Slice:
    """A few steps of the first layers; None: all of them. `memory`: and one more whose memory is
    watched."""
    from ftadvisor.execution.probing.timing import MICRO_BATCHES, ProbeCallback

    count = layers or depth(config)
    length = int(settings.longest_length or settings.max_length)
    what = (count, int(settings.micro_batch_size), length)
    accumulated = int(settings.gradient_accumulation_steps)
    trained = min(accumulated, MICRO_BATCHES)
    clock = ProbeCallback(device, skipped=accumulated - trained, memory=memory)
    settings = replace(settings, gradient_accumulation_steps=trained)
    failed, trainer, above = False, None, (None, None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(plan, with_layers(config, count), settings, device, folder, clock)
            if not device.is_cpu:
                stack.torch.cuda.empty_cache()
                stack.torch.cuda.reset_peak_memory_stats(device.place)
            trainer.train()
            above = _above(device)
    except Exception as error:
        # A CPU's allocator raises a plain RuntimeError.
        if not is_out_of_memory(error):
            raise
        failed = True
    if failed:
        # No frame of its traceback is alive any more, and what it held can go: the next slice
        # would find less room, and count it among its own.
        trainer = None
        _free(device)
        return Slice(*what, "oom")
    del trainer
    _free(device)
    seconds, cpus = statistics.median(clock.walls), statistics.median(clock.cpus)
    return Slice(*what, "done", seconds, cpus, clock.spread, len(clock.walls), clock.peaks, *above)


def trainer_of(
    plan: Plan, config: Any, settings: Settings, device: Device, folder: str, clock: Any
) -> Any:
    """The plan's own trainer, on random weights and rows."""
    _check(plan)
    stack.transformers.set_seed(0)
    spec = find_model(plan.model).spec
    length = int(settings.longest_length or settings.max_length)
    labels = OF_HEADS.get(plan.objective, ())
    model = blank_model(config, spec, settings, device, labels)
    if plan.objective not in MAKES_THE_ADAPTER:
        model = adapt(model, settings, MOST_STEPS)
    a_step = int(settings.micro_batch_size) * int(settings.gradient_accumulation_steps)
    row = ROWS[plan.objective](length, int(settings.max_target_length))
    rows = [row] * (a_step * MOST_STEPS)
    run = RunSettings(output_dir=folder, max_steps=MOST_STEPS, eval_share=0.0)
    settings = replace(settings, max_length=length)
    of = Training(
        plan, settings, run, device, Examples(rows, [], (), labels), Tokenizing(tokenizer(), ()),
        model, [clock], Journal(),
    )  # fmt: skip
    trainer = BUILDERS[plan.objective](of)
    trainer.remove_callback(stack.transformers.PrinterCallback)
    set_adapter_dtype(trainer.model, settings)
    return trainer


def _check(plan: Plan) -> None:
    if plan.objective not in ROWS:
        raise UnsupportedError.of(
            f"a probe of {plan.objective}", "no rows are made for it", list(ROWS)
        )
    if plan.objective in REFERRING and find_technique(plan.technique).trains_base:
        raise UnsupportedError.of(
            f"a probe of {plan.objective} with {plan.technique}",
            "its reference is a second model, read from weights that a probe does not need",
            ["--technique lora", "--objective orpo"],
        )


def _pair(length: int) -> Row:
    asked = _text(length // 2)
    answer = _text(length - length // 2 - 1)
    return {"prompt": f"{asked} ", "chosen": answer, "rejected": answer}


def _text(length: int) -> str:
    return " ".join(f"w{2 + i * 7 % (WORDS - 2)}" for i in range(length))


ROWS: dict[str, Callable[[int, int], Row]] = {
    "sft": lambda length, _: {"text": _text(length - 1)},
    "clm": lambda length, _: {"text": _text(length - 1)},
    "cpt": lambda length, _: {"text": _text(length - 1)},
    "seq_cls": lambda length, _: {"text": _text(length), "label": "yes"},
    "token_cls": lambda length, _: {"tokens": _text(length).split(), "labels": ["no"] * length},
    "dpo": lambda length, _: _pair(length),
    "orpo": lambda length, _: _pair(length),
    "reward": lambda length, _: _pair(length),
    "kto": lambda length, _: {
        "prompt": _pair(length)["prompt"], "completion": _pair(length)["chosen"], "label": True,
    },
    "seq2seq": lambda length, target: {"source": _text(length), "target": _text(target - 1)},
}  # fmt: skip
"""One row of a length, and a target's; the end token that a trainer adds is counted."""


def tokenizer() -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # pyright: ignore

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, WORDS)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return stack.transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>"
    )


def _above(device: Device) -> tuple[int | None, int | None]:
    """What a GPU's allocator holds, and what the device shows of this process [bytes]."""
    if device.is_cpu:
        return None, None
    free, total = stack.torch.cuda.mem_get_info(device.place)
    # Where the driver does not say, all that is taken: other processes' memory too.
    return stack.torch.cuda.max_memory_reserved(device.place), own_bytes() or total - free


def _free(device: Device) -> None:
    gc.collect()
    if not device.is_cpu:
        stack.torch.cuda.empty_cache()

"""Optimizer steps as a training program runs them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ftadvisor.estimation.activations import packing_needs_mask
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.autocast import STATE
from ftadvisor.simulation.model.building import DTYPES
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.sharding.rank import Rank
from ftadvisor.simulation.stack import torch
from ftadvisor.simulation.training.generation import generated_batches
from ftadvisor.simulation.training.losses import Forward, forward_of, holding
from ftadvisor.simulation.training.objectives import GENERATING, Objective, num_sequences
from ftadvisor.simulation.training.optimizers import make_optimizer

NUM_STEPS = 2
"""The second has the optimizer's states beside its activations; all later ones are like it."""
NUM_STEPS_EMPTYING = 4
"""Where the cache is emptied every few steps: ordinary ones before the longest too. What lives on
from the first step pins its segments; what is made anew in each has left them by then. How many
there must be was found by the errors of ten rows of PEFT's table (full fine-tuning: +2.5 % with
one, +0.4 % with three, each beside the length fitted on the row of LoRA)."""
NUM_MICRO_BATCHES = 2
"""Of one step: the second has gradients beside its activations; all later ones are like it."""
FUSED_PROJECTION = ".attn.c_attn"
"""GPT-BigCode's."""

FIRST_OF_LONGEST = 2.38 / 4.06
"""Where batches come sorted from buckets of 80 samples, the longest first, the first batch of all
has the longest of 80: its standard deviations above the mean, over the longest of 20,000's."""
SHORTEST_OVER_MEAN = 0.55
"""Of a bucket's last batch: a guess."""


def num_steps(settings: Settings, trainer: Trainer) -> int:
    """How many optimizer steps are run."""
    varied = trainer.empties_cache and settings.typical_length
    return NUM_STEPS_EMPTYING if varied else NUM_STEPS


def sequence_length(settings: Settings, trainer: Trainer, step: int, *, longest: bool) -> int:
    """Tokens of a batch's sequences: the longest batch comes last, typical ones before, unless the
    program puts the longest first.

    What the first step leaves in the cache decides what is reserved: its cuBLAS workspace pins a
    segment of its activations. PEFT's loop (run.py, BucketIterator) sorts within buckets, from
    long to short, and empties the cache at a bucket's end, before the next one's longest.
    """
    most = float(settings.longest_length or settings.max_length)
    if longest or not settings.typical_length:
        return int(most)
    if trainer.empties_cache:
        mean = float(settings.mean_length)
        first, last = mean + (most - mean) * FIRST_OF_LONGEST, mean * SHORTEST_OVER_MEAN
        return round(first + (last - first) * (step - 1) / (NUM_STEPS_EMPTYING - 2))
    return int(settings.typical_length)


def has_mask(settings: Settings, trainer: Trainer) -> bool:
    """Whether attention gets a mask: several padded sequences, or packed ones kept apart.

    Rows of one length (no typical one) are not padded: Transformers finds their mask all True and
    drops it (masking_utils.py, _ignore_causal_mask_sdpa).
    """
    if settings.packing:
        return packing_needs_mask(settings, trainer)
    rows, varying = num_sequences(settings), settings.typical_length > 0
    if settings.objective in GENERATING:
        # Whatever is generated together has one width, and completions end where they will.
        rows, varying = rows * int(settings.gradient_accumulation_steps), True
    padded = rows > 1 and varying
    if settings.attn_implementation == "flash_attention_2":
        return False
    return bool(padded) and trainer.model_code != "litgpt"


def make_batch(model: Any, settings: Settings, trainer: Trainer, length: int) -> dict[str, Any]:
    """One micro-batch as the collator hands it over."""
    rows = int(settings.micro_batch_size)
    apart = settings.packing and packing_needs_mask(settings, trainer)
    shape = (1, rows * length) if apart else (rows, length)
    with torch.device("meta"):
        batch: dict[str, Any] = {"input_ids": torch.empty(shape, dtype=torch.long)}
        if apart:
            batch["position_ids"] = torch.empty(shape, dtype=torch.long)
        elif not settings.packing and trainer.model_code != "litgpt":
            batch["attention_mask"] = torch.empty(shape, dtype=torch.long)
        label_shape: tuple[int, ...] = shape
        if settings.objective == "seq_cls":
            label_shape = (rows,)
        elif model.config.is_encoder_decoder:
            label_shape = (rows, int(settings.max_target_length))
        batch["labels"] = torch.empty(label_shape, dtype=torch.long)
    return batch


def run_steps(
    rank: Rank,
    recorder: Recorder,
    settings: Settings,
    trainer: Trainer,
    objective: Objective | None = None,
) -> None:
    """Forward, backward, clipping and step, a few times."""
    forward = forward_of(settings, trainer)
    optimizer = make_optimizer(settings.optim, rank)
    accumulated = min(int(settings.gradient_accumulation_steps), NUM_MICRO_BATCHES)
    held: Any = None
    last = num_steps(settings, trainer)
    for step in range(1, last + 1):
        if trainer.empties_cache:
            # PEFT's run.py: gradients live until the next step begins, the emptying included.
            optimizer.zero_grad(set_to_none=True)
        made: list[dict[str, Any]] = []
        for part in range(1, accumulated + 1):
            name = f"{step}" if accumulated == 1 else f"{step}.{part}"
            longest = step == part == 1 if trainer.longest_first else step == last
            length = sequence_length(settings, trainer, step, longest=longest)
            if objective is not None:
                made = made or generated_batches(objective, settings, length, step)
                loss, outputs = objective.loss(name, length, made[part - 1 :]), None
            else:
                recorder.mark(f"forward {name}")
                reduces = part == accumulated or not trainer.sharded_accumulation_unsharded
                rank.begin_forward(synchronised=reduces)
                loss, outputs = _forward(rank.model, recorder, settings, trainer, forward, length)
                rank.end_forward(loss)
            held = outputs if trainer.holds_outputs else None
            del outputs
            recorder.mark(f"backward {name}")
            loss.backward()
            del loss
            rank.end_backward()
            label_gradients(rank, recorder)
        _clip(rank, settings, recorder, step)
        recorder.mark(f"step {step}")
        optimizer.step()
        _label_states(rank, optimizer, recorder)
        if not trainer.empties_cache:
            optimizer.zero_grad(set_to_none=True)
        elif step == last - 1:
            recorder.empty_cache()
        if trainer.outputs_end_with_step:
            held = None
    recorder.mark("end")
    del held


def _clip(rank: Rank, settings: Settings, recorder: Recorder, step: int) -> None:
    recorder.mark(f"clip {step}")
    if settings.max_grad_norm:
        trained = [p for _, p in rank.named_parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)


def _forward(
    model: Any,
    recorder: Recorder,
    settings: Settings,
    trainer: Trainer,
    forward: Forward,
    length: int,
) -> tuple[Any, Any]:
    batch = make_batch(model, settings, trainer, length)
    for tensor in batch.values():
        recorder.adopt(tensor, "batch")
    with holding(_cached(model, trainer)) as cache:
        with _autocast(settings):
            loss, outputs = forward(model, batch)
        if trainer.is_hugging_face and settings.autocast != "none" and outputs is not None:
            _upcast_outputs(outputs)
    cache.clear()
    return loss, outputs


def _cached(model: Any, trainer: Trainer) -> list[Any]:
    """The modules whose outputs the key-value cache holds whole, where the program leaves it on:
    its keys and values are views of the fused q-k-v outputs."""
    if model.config.model_type not in trainer.keeps_cache:
        return []
    return [module for name, module in model.named_modules() if name.endswith(FUSED_PROJECTION)]


def _upcast_outputs(outputs: Any) -> None:
    """accelerate hands all results over in fp32 (utils/operations.py, ConvertOutputsToFp32)."""
    for name, value in dict(outputs).items():
        if isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            outputs[name] = value.float()


def _autocast(settings: Settings) -> AbstractContextManager[Any]:
    if settings.autocast == "none":
        return nullcontext()
    return torch.autocast(STATE, DTYPES[settings.autocast])


def label_gradients(rank: Rank, recorder: Recorder) -> None:
    """Name the gradients among what backward has left."""
    for name, parameter in rank.named_parameters():
        if parameter.grad is not None:
            recorder.label(parameter.grad, "gradients", name.rpartition(".")[0])


def _label_states(rank: Rank, optimizer: Any, recorder: Recorder) -> None:
    names = {id(p): name.rpartition(".")[0] for name, p in rank.named_parameters()}
    for parameter, states in optimizer.state.items():
        for value in states.values():
            if isinstance(value, torch.Tensor):
                recorder.label(value, "optimizer", names.get(id(parameter), ""))

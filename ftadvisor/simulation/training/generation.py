"""The policy's turn: completions with a cache of keys and values, and what is computed of them.

Transformers' own prefill, cache and decoding forward run (generation/utils.py, _prefill and
_sample). Between the first token and the last ones only the cache runs, by its own `update`: what
is alive at the last token is the same, and the allocator sees the cache grow, though not the
short-lived tensors of those tokens.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.recording.pattern import layer_of
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.stack import torch, transformers, trl_module
from ftadvisor.simulation.training.objectives import GENERATING, Objective

DECODED = 2
"""Tokens that are decoded one by one at the end; the second finds the first one's leavings."""
MOST_PIECES = 128
"""In which the cache grows between: token by token where there are no more."""


def generated_batches(
    objective: Objective | None, settings: Settings, length: int, step: int
) -> list[dict[str, Any]]:
    """The micro-batches of one optimizer step, all of whose completions are made at once; none
    where nothing is generated.

    `length` is the prompts' [tokens]. Ref: grpo_trainer.py, rloo_trainer.py and
    distillation_trainer.py, _generate_and_score_completions and _prepare_inputs.
    """
    if objective is None or settings.objective not in GENERATING:
        return []
    recorder, model = objective.recorder, objective.model
    accumulation = int(settings.gradient_accumulation_steps)
    rows = int(settings.micro_batch_size) * accumulation
    new = int(settings.max_completion_length)
    # Completions alone are scored (_get_per_token_logps_and_entropies: labels[:, :-keep] = -100).
    size = int(settings.micro_batch_size)
    recorder.selected = {size * (length + new - 1): size * new}
    recorder.mark(f"generate {step}")
    batch = {name: _whole(rows, length) for name in ("prompt_ids", "prompt_mask")}
    quiet = trl_module("trl.models.utils").disable_gradient_checkpointing
    with torch.no_grad(), quiet(model, objective.trl.args.gradient_checkpointing_kwargs):
        _generate(model, recorder, batch["prompt_ids"], batch["prompt_mask"], new)
        batch |= {name: _whole(rows, new) for name in ("completion_ids", "completion_mask")}
        batch |= _scored(objective, settings, batch, rows, step)
    batch["num_items_in_batch"] = torch.empty((), dtype=torch.long, device="meta")
    split: Any = trl_module("trl.trainer.utils").split_tensor_dict(batch, accumulation)
    return split


def _whole(rows: int, length: int) -> Any:
    return torch.empty((rows, length), dtype=torch.long, device="meta")


def _generate(model: Any, recorder: Recorder, ids: Any, mask: Any, new: int) -> None:
    """`generate` as TRL asks for it: sampled at temperature 1, nothing cut off.

    PEFT hands it to the base model, whose forward accelerate has not wrapped: no autocast there.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    cache = transformers.DynamicCache(config=base.config)
    known: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
    if base._supports_logits_to_keep():
        known["logits_to_keep"] = 1
    outputs = base._prefill(ids, base.generation_config, known)
    with base._optimize_model_for_decode():
        ids, known = _sampled(base, outputs, ids, known)
        del outputs
        skipped = new - 1 - DECODED
        if skipped > 0:
            _grow(cache, model, recorder, skipped)
            more = _whole(ids.shape[0], skipped)
            ids = torch.cat([ids, more], dim=-1)
            known["attention_mask"] = torch.cat([known["attention_mask"], more], dim=-1)
        for _ in range(min(DECODED, new - 1)):
            inputs = base.prepare_inputs_for_generation(ids, next_sequence_length=1, **known)
            outputs = base(**inputs, return_dict=True)
            ids, known = _sampled(base, outputs, ids, known)
            del inputs, outputs


def _sampled(base: Any, outputs: Any, ids: Any, known: dict[str, Any]) -> tuple[Any, Any]:
    """One token more (_sample)."""
    known = base._update_model_kwargs_for_generation(outputs, known, is_encoder_decoder=False)
    logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
    probabilities = torch.nn.functional.softmax(logits, dim=-1)
    # torch.multinomial of one sample (aten/src/ATen/native/Distributions.cpp).
    quotient = torch.empty_like(probabilities).exponential_(1)
    torch.div(probabilities, quotient, out=quotient)
    token = quotient.argmax(dim=-1, keepdim=True)
    return torch.cat([ids, token], dim=-1), known


def _grow(cache: Any, model: Any, recorder: Recorder, tokens: int) -> None:
    """Every layer's keys and values, that many tokens longer, in the order of the decoding."""
    places: dict[int | None, str] = {}
    for name, _ in model.named_modules():
        places.setdefault(layer_of(name), name)
    layers = [
        (places.get(index, ""), layer)
        for index, layer in enumerate(cache.layers)
        if isinstance(getattr(layer, "keys", None), torch.Tensor)
    ]
    pieces = min(tokens, MOST_PIECES)
    for piece in range(pieces):
        size = tokens * (piece + 1) // pieces - tokens * piece // pieces
        for place, layer in layers:
            with recorder.inside(place):
                old = (layer.keys, layer.values)
                new = [x.new_empty((*x.shape[:2], size, x.shape[-1])) for x in old]
                del old
                layer.update(*new)
                del new


def _scored(
    objective: Objective, settings: Settings, batch: dict[str, Any], rows: int, step: int
) -> dict[str, Any]:
    """Log-probabilities of the policy as it was and of the reference, and the advantages.

    GRPO needs no old policy where all that is generated is trained on in one optimizer step
    (grpo_trainer.py, old_per_token_logps); RLOO always asks for it.
    """
    if settings.objective == "distillation":
        return {}
    trl, found = objective.trl, {"advantages": torch.empty((rows,), device="meta")}
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)

    def scores(model: Any) -> Any:
        new, size = batch["completion_ids"].shape[1], int(settings.micro_batch_size)
        return trl._get_per_token_logps_and_entropies(model, ids, mask, new, batch_size=size)[0]

    name = f"{step} scoring"
    objective.begin(name)
    old = scores(objective.model) if settings.objective == "rloo" else None
    reference = None
    if settings.reference_model:
        reference = objective.as_reference(scores)
    if settings.objective == "grpo":
        return found if reference is None else found | {"ref_per_token_logps": reference}
    found["old_logps"] = (old * batch["completion_mask"]).sum(1)
    if reference is not None:
        # The penalty joins the rewards on the GPU; the tokens' own are not kept.
        ((old - reference) * batch["completion_mask"]).sum(-1)
    return found

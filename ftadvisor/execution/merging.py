"""The adapter in the base's own weights: a whole model that needs no PEFT.

A quantised base is read again and dequantised, never merged into in its 4 or 8 bits: that would
round the sum anew (study 2.2: an error of 0.078 against 0.0026). What is merged is the base that
the adapter was trained on, so that the outputs are the adapter's: of 4 bits to rounding, of
LLM.int8 but for its rounding of activations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.device import processor
from ftadvisor.execution.loading import QUANTIZED, load_model
from ftadvisor.execution.saving import stop_at_ends
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.techniques import find_technique

MERGED = "merged"
"""The directory of it, within the run's own."""
_PROMPTS = "what it adds is in the sequence, in no weight of the base"
_GATED = "what it adds depends on the text, so that no weight of the base can hold it"
NOT_MERGED = {
    "bottleneck": "it is not linear, so that no weight of the base can hold it",
    "prompt_tuning": _PROMPTS,
    "p_tuning": _PROMPTS,
    "prefix_tuning": _PROMPTS,
    "adaption_prompt": _GATED,
    "lily": _GATED,
    # peft 0.21.2 tuners/beft/layer.py line 103.
    "beft": "PEFT merges its biases only where the base has some, and most bases have none",
}
"""Techniques that no base can hold, and why."""


def refusal(technique: str) -> str | None:
    """Why a technique cannot be merged; None: it can, or it has trained the whole model."""
    return NOT_MERGED.get(technique)


def merge_model(
    model: str, family: str, settings: Settings, labels: tuple[str, ...], tokenizer: Any,
    output_dir: Path,
) -> Path | None:  # fmt: skip
    """Write the merged model beside the adapter that lies in `output_dir`; None: it is whole.

    On the CPU: a GPU that holds a base in 4 bits need not hold it in 16.
    """
    if find_technique(settings.technique).trains_base:
        return None
    # Transformers would divide what it loads by ZeRO-3, with processes that wait for nothing.
    stack.transformers.integrations.unset_hf_deepspeed_config()
    base = load_model(model, family, settings, processor(), labels)
    if settings.quantization in QUANTIZED:
        base = base.dequantize()
        # What it was loaded in still stands on it, and PEFT's IA3 goes by that (peft 0.21.2
        # tuners/ia3/model.py line 229).
        base.is_loaded_in_4bit = base.is_loaded_in_8bit = False
    base.config.use_cache = True
    adapted = stack.peft.PeftModel.from_pretrained(base, str(output_dir))
    place = output_dir / MERGED
    merged = adapted.merge_and_unload(safe_merge=True)
    _unwrap(merged)
    stop_at_ends(merged, tokenizer)
    merged.save_pretrained(str(place))
    tokenizer.save_pretrained(str(place))
    return place


def _unwrap(model: Any) -> None:
    """Heads and embeddings that were trained whole, out of the wrapper that PEFT's LayerNorm tuning
    leaves them in (peft 0.21.2 tuners/ln_tuning/model.py, _unload_and_optionally_merge): saved
    under its names they would be made anew where the model is loaded.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, stack.peft.utils.other.AuxiliaryTrainingWrapper):
            parent, _, attribute = name.rpartition(".")
            trained = module.unload_and_optionally_merge_module(
                merge=True, safe_merge=True, adapter_names=None
            )
            setattr(model.get_submodule(parent), attribute, trained)

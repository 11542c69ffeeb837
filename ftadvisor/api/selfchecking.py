"""`selfcheck`: the closed form's allocated memory beside the simulated one, over architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ftadvisor.api.estimator import estimate
from ftadvisor.api.simulating import settings_of, simulated_step
from ftadvisor.errors import FtadvisorError, MissingExtraError, UnknownNameError
from ftadvisor.schema.selfcheck import Checked, SelfCheck
from ftadvisor.sources.models import model_config
from ftadvisor.sources.trainers import find_trainer

GPU = "a100-80gb"
MODELS = {
    "llama": "meta-llama/Llama-3.2-1B",
    "llama4": "meta-llama/Llama-4-Scout-17B-16E",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "mixtral": "mistralai/Mixtral-8x7B-v0.1",
    "qwen2": "Qwen/Qwen2.5-0.5B",
    "qwen3": "Qwen/Qwen3-0.6B",
    "qwen3_moe": "Qwen/Qwen3-30B-A3B",
    "gemma": "google/gemma-2b",
    "gemma2": "google/gemma-2-2b",
    "gemma3": "google/gemma-3-1b-it",
    "phi": "microsoft/phi-2",
    "phi3": "microsoft/Phi-3-mini-4k-instruct",
    "falcon": "tiiuae/falcon-7b",
    "gpt2": "openai-community/gpt2",
    "gpt_neox": "stabilityai/stablelm-base-alpha-3b",
    "opt": "facebook/opt-1.3b",
    "bloom": "bigscience/bloom-560m",
    "olmo": "allenai/OLMo-1B-hf",
    "olmo2": "allenai/OLMo-2-1124-7B",
    "granite": "ibm-granite/granite-3.1-2b-base",
    "deepseek_v2": "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3",
    "gpt_oss": "openai/gpt-oss-20b",
    "bert": "google-bert/bert-base-uncased",
    "roberta": "FacebookAI/roberta-base",
    "albert": "albert/albert-base-v2",
    "deberta-v2": "microsoft/deberta-v3-base",
    "modernbert": "answerdotai/ModernBERT-base",
    "t5": "google-t5/t5-base",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "qwen2_vl": "Qwen/Qwen2-VL-2B-Instruct",
}
"""One model of the catalogue for each architecture."""
COMMON: dict[str, Any] = {"micro_batch_size": 2, "max_length": 512, "mean_length": 512}
_LORA = {"technique": "lora", "lora_target_modules": "all-linear"}
_PLAIN = {"gradient_checkpointing": "none"}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora, trl": {**_LORA},
    "lora, trl, kept activations": {**_LORA, **_PLAIN},
    "lora, transformers, dropout": {
        **_LORA, **_PLAIN, "trainer": "transformers-5", "lora_dropout": 0.1,
    },
    "lora, eager attention": {**_LORA, **_PLAIN, "attn_implementation": "eager"},
    "lora, transformers, fp32 weights": {
        **_LORA, **_PLAIN, "trainer": "transformers-5", "precision": "amp-bf16",
    },
    "full, trl": {"technique": "full"},
    "full, transformers, fp32 weights": {
        **_PLAIN, "technique": "full", "trainer": "transformers-5", "precision": "amp-bf16",
    },
    "full, transformers, bf16, accumulated": {
        "technique": "full", "trainer": "transformers-5", "precision": "bf16",
        "gradient_accumulation_steps": 2,
    },
    "qlora, trl": {**_LORA, "technique": "qlora"},
    "qlora, trl, kept activations": {**_LORA, **_PLAIN, "technique": "qlora"},
}  # fmt: skip
"""What changes the tensors that a step keeps."""


def selfcheck(
    architectures: Iterable[str] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> SelfCheck:
    """Both ways to the allocated peak of every setting, for all architectures or some.

    Raises UnknownNameError for an architecture that is not among them, and MissingExtraError
    without the packages of the `run` extra.
    """
    names = tuple(architectures or MODELS)
    for name in names:
        if name not in MODELS:
            error = UnknownNameError("architecture", name, MODELS)
            # No command lists them.
            error.suggestions = error.suggestions or tuple(MODELS)
            raise error
    return SelfCheck(tuple(_rows(names, progress)))


def _rows(names: Iterable[str], progress: Callable[[str], None] | None) -> Iterator[Checked]:
    for name in names:
        for setting in SETTINGS:
            if progress is not None:
                progress(f"{name}: {setting}")
            yield compared(name, setting)


def compared(architecture: str, setting: str) -> Checked:
    """One setting of one architecture, computed both ways."""
    model = MODELS[architecture]
    try:
        closed = estimate(model, gpu=GPU, **{**COMMON, **SETTINGS[setting]})
    except FtadvisorError as error:
        return Checked(architecture, model, setting, 0, None, "", "", error.message)
    row = Checked(
        architecture=architecture,
        model=model,
        setting=setting,
        analytic_bytes=closed.memory.allocated_bytes,
        simulated_bytes=None,
        analytic_phase=closed.memory.peak_phase,
        simulated_phase="",
    )
    trainer = find_trainer(closed.trainer)
    try:
        step = simulated_step(model_config(model), settings_of(closed), trainer, GPU)
    except MissingExtraError:
        raise
    except FtadvisorError as error:
        return row._replace(reason=error.message)
    return row._replace(simulated_bytes=step.allocated_bytes, simulated_phase=step.peak_phase)

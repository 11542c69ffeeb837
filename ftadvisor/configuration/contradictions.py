"""Settings that exclude each other, or that the GPU or the trainer refuses."""

from __future__ import annotations

from math import gcd
from typing import Any

from ftadvisor.configuration.objectives import GROUPED
from ftadvisor.errors import InvalidSettingError, near_misses
from ftadvisor.estimation.adapters.targets import matches
from ftadvisor.estimation.numerics import BITSANDBYTES
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import FSDP, ZERO, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer

GALORE = ("galore_adamw", "galore_adamw_8bit")
SHARDING = (*ZERO, *FSDP)
OFFLOADING = {
    "offload_params": ("zero3", "fsdp"),
    "offload_optimizer": (*ZERO, "fsdp"),
}
"""Strategies whose engine (DeepSpeed, FSDP) can keep it on the CPU."""
FLASH_CAPABILITY = 8.0
"""flash-attn 2 has kernels for Ampere and later (README, NVIDIA CUDA support)."""
"""It supports them on mps: bitsandbytes 0.50.2, table of platforms; backends/mps/ops.py."""
NO_FLASH = frozenset({"apple", "gaudi"})
"""Architectures that are not among the devices of Transformers 5.23,
modeling_flash_attention_utils.py, FLASH_ATTENTION_COMPATIBILITY_MATRIX."""


def check_hardware(
    chosen: dict[str, Any], given: dict[str, Any], gpu: Gpu, said: list[str]
) -> None:
    """Raise InvalidSettingError for what the GPU has no kernels for."""
    if given.get("adapter_dtype") == "bf16" and not gpu.has_bf16:
        raise InvalidSettingError(
            f"adapter_dtype bf16: {gpu.name} has no bf16.",
            ["--adapter-dtype fp32", "--adapter-dtype fp16"],
        )
    if given.get("attn_implementation") == "flash_attention_2":
        has = gpu.compute_capability
        if has and float(has) < FLASH_CAPABILITY:
            raise _no_flash(
                f"it needs compute capability {FLASH_CAPABILITY:.1f}, {gpu.name} has {has}"
            )
        if gpu.arch in NO_FLASH:
            raise _no_flash(f"it has no kernels for {gpu.name}")
    if gpu.vendor != "apple":
        return
    if chosen.get("num_gpus", 1) > 1:
        raise InvalidSettingError(
            f"num_gpus {chosen['num_gpus']}: torch trains on one Apple GPU only; {gpu.name} is the"
            " whole machine's.",
            ["--num-gpus 1"],
        )
    optim = chosen["optim"]
    if "8bit" in optim or optim.startswith("paged_"):
        # bitsandbytes 0.50.2's table of platforms: 8-bit optimizers are in the making on mps.
        raise InvalidSettingError(
            f"optim {optim}: bitsandbytes has no such optimizer for {gpu.name} yet.",
            ["--optim adamw_torch", "--optim adafactor"],
        )
    if chosen.get("quantization") in BITSANDBYTES:
        said.append(
            f"bitsandbytes runs {chosen['quantization']} on Apple GPUs by PyTorch's own operations"
            " (its Metal kernels for 4 bits need macOS 26), which is slow"
        )


def set_attention(
    chosen: dict[str, Any], given: dict[str, Any], model: ModelSpec, trainer: Trainer,
    said: list[str],
) -> None:  # fmt: skip
    """FlashAttention that only the trainer's defaults ask for is SDPA where the model has none.

    Raises InvalidSettingError where it was asked for and the model or the dtype has none.
    """
    lacks = trainer.model_code == "transformers" and not model.supports_flash_attention
    if given.get("attn_implementation") != "flash_attention_2":
        if lacks and chosen.get("attn_implementation") == "flash_attention_2":
            chosen["attn_implementation"] = "sdpa"
            said.append(f"attn_implementation sdpa: {model.model_type} has no FlashAttention")
        return
    if lacks:
        raise _no_flash(f"Transformers' code of {model.model_type} has none")
    computes = chosen["weights_dtype"] if chosen["autocast"] == "none" else chosen["autocast"]
    if computes == "fp32":
        raise _no_flash("it computes in fp16 and bf16 only", "--precision amp-bf16")


def _no_flash(why: str, *more: str) -> InvalidSettingError:
    return InvalidSettingError(
        f"attn_implementation flash_attention_2: {why}.", [*more, "--attn-implementation sdpa"]
    )


def check_technique_options(
    chosen: dict[str, Any], given: dict[str, Any], technique: Technique, trainer: Trainer,
    model: ModelSpec,
) -> None:  # fmt: skip
    """Raise InvalidSettingError for an optimizer, modules or tokens that do not go with it."""
    optim = chosen["optim"]
    if (technique.id == "galore") != (optim in GALORE):
        if technique.id == "galore":
            why = "GaLore is what its own optimizers do"
            ways = [f"--optim {name}" for name in GALORE]
        else:
            why = "it trains all weights, with technique galore"
            ways = [f"--technique galore --optim {optim}", "--optim adamw_torch"]
        raise InvalidSettingError(f"technique {technique.id} with optim {optim}: {why}.", ways)
    if technique.id == "trainable_tokens" and not given.get("peft_config", {}).get("token_indices"):
        raise InvalidSettingError(
            "technique trainable_tokens trains the embeddings of chosen tokens, and none is named.",
            ["--peft-config '{\"token_indices\": [0, 1, 2]}'"],
        )
    names = given.get("lora_target_modules", ())
    named = model.blocks and technique.id != "ln_tuning" and trainer.model_code != "litgpt"
    if len(names) > 1 and named:
        _check_modules(names, model)


def _check_modules(names: tuple[str, ...], model: ModelSpec) -> None:
    """PEFT passes over a name that nothing has as long as another one is found."""
    pairs = [(linear, block) for block in model.blocks for linear in block.linears]
    for name in names:
        if not any(matches(linear, block, (name,)) for linear, block in pairs):
            have = sorted({linear.name for linear, _ in pairs})
            raise InvalidSettingError(
                f"lora_target_modules {name}: no module in the layers of {model.id} is called so.",
                near_misses(name, have) or have,
            )


def set_strategy(chosen: dict[str, Any], given: dict[str, Any], said: list[str]) -> None:
    """How several GPUs share the model, and which engine keeps what on the CPU.

    Raises InvalidSettingError where there is nothing to share, or nobody to do it.
    """
    gpus = chosen.get("num_gpus", 1)
    strategy = given.get("strategy")
    if gpus > 1 and strategy == "none":
        raise InvalidSettingError(
            f"strategy none with num_gpus {gpus}: several GPUs have to share the work somehow.",
            ["--strategy ddp", "--num-gpus 1"],
        )
    offloaded = [name for name in OFFLOADING if given.get(name)]
    for name in offloaded:
        if strategy not in OFFLOADING[name]:
            ways = [s for s in ("zero3", "zero2", "fsdp") if s in OFFLOADING[name]]
            raise InvalidSettingError(
                f"{name} with strategy {strategy or ('none' if gpus == 1 else 'ddp')}: only the"
                f" engines of {', '.join(OFFLOADING[name])} keep it on the CPU.",
                [f"--strategy {way}" for way in ways],
            )
    if strategy == "fsdp" and len(offloaded) == 1:
        raise InvalidSettingError(
            f"{offloaded[0]} alone with strategy fsdp: FSDP keeps parameters, gradients and"
            " optimizer states on the CPU together (torch distributed/fsdp, CPUOffloadPolicy).",
            ["--offload-params --offload-optimizer", "--strategy zero3"],
        )
    if gpus == 1 and strategy not in (None, "none") and not offloaded:
        raise InvalidSettingError(
            f"strategy {strategy} with num_gpus 1: there is nothing to divide.",
            ["--num-gpus 2", "--strategy none"],
        )
    if gpus > 1 and strategy is None:
        chosen["strategy"] = "ddp"
        said.append(f"strategy ddp: every one of the {gpus} GPUs holds the whole model")


def check_batch(settings: Settings) -> None:
    """Raise InvalidSettingError for a batch that TRL 1.16 refuses to train with.

    Ref: trl/trainer/grpo_config.py and rloo_config.py, __post_init__; kto_trainer.py, __init__.
    """
    micro, answers = settings.micro_batch_size, settings.num_generations
    if settings.objective == "kto" and micro == 1:
        raise InvalidSettingError(
            "micro_batch_size 1 with objective kto: its KL term pairs answers of one micro-batch.",
            ["--micro-batch-size 2"],
        )
    if settings.objective not in GROUPED:
        return
    if answers < 2:
        raise InvalidSettingError.of(
            "num_generations", answers, "be at least 2: answers are compared", [
                "--num-generations 2"
            ],
        )  # fmt: skip
    others = settings.gradient_accumulation_steps * settings.num_gpus
    batch = micro * others
    if batch % answers:
        least = answers // gcd(answers, others)
        nearest = max(least, round(micro / least) * least)
        fewer = max((n for n in range(2, answers) if batch % n == 0), default=0)
        more = next((n for n in range(answers + 1, batch + 1) if batch % n == 0), 0)
        raise InvalidSettingError(
            f"num_generations {answers} does not divide the batch of {batch} (micro_batch_size"
            f" {micro} x gradient_accumulation_steps {settings.gradient_accumulation_steps} x"
            f" num_gpus {settings.num_gpus}): answers of one prompt must be in one batch.",
            [
                f"--micro-batch-size {nearest}",
                *(f"--num-generations {n}" for n in (fewer, more) if n),
            ],
        )

"""What a plan's settings need of other packages and of the checkpoint: refused by name without it.

Imports nothing heavy: packages are looked for, configurations read.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.execution import stack
from ftadvisor.schema.report import Event
from ftadvisor.schema.settings import FSDP, Settings
from ftadvisor.sources.models import find_model, model_config

if TYPE_CHECKING:
    from ftadvisor.execution.preflight import Subject

QUANTIZED_BEFORE = {"gptq-int4": ("gptq", 4), "gptq-int8": ("gptq", 8), "awq-int4": ("awq", 4)}
"""Quantisations that a checkpoint brings along: quant_method and bits of its config.json."""
LOADED_BY = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""transformers 5.23 quantizers/quantizer_gptq.py line 58, quantizer_awq.py line 46."""
MADE_ON_LOADING = {"load_in_4bit": ("nf4", "nf4-dq"), "load_in_8bit": ("int8",)}
"""bitsandbytes' own checkpoints, and the settings that they are."""
NO_FUSED_HEAD = ("reward", "orpo", "seq_cls", "token_cls", "seq2seq")
"""Objectives whose trainers call the model itself; the others' call its body and read its head
(trl 1.16 trainer/utils.py line 1616, trainer/distillation_trainer.py line 1523)."""
WITHOUT_A_BODY = ("llama4", "llama4_text")
"""Types whose `base_model` is the whole model, head included (transformers 5.23
models/llama4/modeling_llama4.py line 570: a prefix that no part is called by)."""


def packages(of: Subject) -> Iterator[Event]:
    """Packages that a setting needs, which the `run` extra has not."""
    s = of.settings
    if s.fused_norm or s.fused_mlp:
        which = "fused_norm" if s.fused_norm else "fused_mlp"
        _need(which, ("liger_kernel",), f"--no-{which.replace('_', '-')}")
    # Transformers takes the kernels of the hub instead, where the `kernels` package is.
    if s.attn_implementation == "flash_attention_2" and find_spec("kernels") is None:
        _need(
            "attn_implementation flash_attention_2", ("flash_attn",), "--attn-implementation sdpa"
        )
    yield from ()


def checkpoint(of: Subject) -> Iterator[Event]:
    """What config.json says of the checkpoint's quantisation is what the plan says."""
    how = model_config(of.plan.model).get("quantization_config")
    found = cast("dict[str, Any]", how) if isinstance(how, dict) else {}
    wanted = of.settings.quantization
    stored = _stored(found)
    if wanted in QUANTIZED_BEFORE:
        method, bits = QUANTIZED_BEFORE[wanted]
        if (found.get("quant_method"), found.get("bits")) != (method, bits):
            what = f"it is quantised otherwise ({stored})" if found else "it is not quantised"
            raise InvalidSettingError(
                f"quantization {wanted}: that is how a checkpoint of {of.plan.model} would have to"
                f" be stored, and {what}.",
                [f"a checkpoint quantised by {method.upper()}", "--quantization nf4"],
            )
        _need(f"quantization {wanted}", LOADED_BY[method], "--quantization nf4 of the original")
    elif found and wanted not in _settings_of(found):
        known = _settings_of(found)
        raise InvalidSettingError(
            f"quantization {wanted}: the checkpoint of {of.plan.model} is quantised already"
            f" ({stored}).",
            [f"--quantization {name}" for name in known] or ["the original checkpoint"],
        )
    elif found and of.settings.strategy in FSDP and _in_bytes(found):
        raise InvalidSettingError(
            f"strategy {of.settings.strategy}: the checkpoint of {of.plan.model} stores four-bit"
            " weights as bytes, which FSDP cannot divide.",
            ["the original checkpoint", "--strategy zero3"],
        )
    yield from ()


def _in_bytes(stored: dict[str, Any]) -> bool:
    """bitsandbytes' default of how four-bit weights lie in memory."""
    return str(stored.get("bnb_4bit_quant_storage") or "uint8").endswith("int8")


def head(of: Subject) -> Iterator[Event]:
    """TRL's own head needs the model's body, which a few types do not name."""
    model_type = find_model(of.plan.model).spec.model_type
    if of.plan.objective not in NO_FUSED_HEAD and model_type in WITHOUT_A_BODY:
        raise UnsupportedError.of(
            f"Running {of.plan.objective} of {model_type}",
            "TRL 1.16 calls the model without its head, and Transformers 5.23 has no name for that"
            " part of it", ["a model of another type: ftadvisor list models"],
        )  # fmt: skip
    yield from ()


def attention(of: Subject) -> Iterator[Event]:
    """Some models have eager attention only, and the estimate counts with it."""
    spec = find_model(of.plan.model).spec
    if of.settings.attn_implementation == "sdpa" and not spec.supports_sdpa:
        yield Event("attention", 0, f"eager: Transformers has no SDPA for {spec.model_type}")


def liger_options(settings: Settings) -> dict[str, Any]:
    """TrainingArguments' options for Liger's fused norm and feed-forward, and no other kernel.

    The loss stays the trainer's: TRL has one of its own, and refuses Liger's (trl 1.16
    trainer/sft_trainer.py line 1135).
    """
    if not (settings.fused_norm or settings.fused_mlp):
        return {}
    kernels = dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy"), False)
    norm = dict.fromkeys(("rms_norm", "layer_norm"), settings.fused_norm)
    gate = dict.fromkeys(("swiglu", "geglu"), settings.fused_mlp)
    return {"use_liger_kernel": True, "liger_kernel_config": {**kernels, **norm, **gate}}


def check_liger(settings: Settings, model_type: str, *, on_cpu: bool) -> None:
    """Raise UnsupportedError where Liger has no kernels; it would only log so and go on."""
    if not liger_options(settings):
        return
    if on_cpu:
        raise UnsupportedError.of(
            "fused_norm and fused_mlp on a CPU", "Liger's kernels are a GPU's", ["--no-fused-norm"]
        )
    if model_type not in stack.liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UnsupportedError.of(
            f"fused_norm and fused_mlp of {model_type}", "Liger has no kernels for it",
            ["--no-fused-norm"],
        )  # fmt: skip


def _need(what: str, names: tuple[str, ...], instead: str) -> None:
    missing = [name.replace("_", "-") for name in names if find_spec(name) is None]
    if missing:
        raise InvalidSettingError(
            f"{what} needs {' and '.join(missing)}, not installed.",
            [f"pip install {' '.join(missing)}", instead],
        )


def _settings_of(found: dict[str, Any]) -> tuple[str, ...]:
    """The settings of `quantization` that a checkpoint's own configuration is."""
    for name, quantization in MADE_ON_LOADING.items():
        if found.get(name):
            return quantization
    own = (found.get("quant_method"), found.get("bits"))
    return tuple(name for name, key in QUANTIZED_BEFORE.items() if key == own)


def _stored(found: dict[str, Any]) -> str:
    method, bits = found.get("quant_method", "by what it does not name"), found.get("bits")
    return f"{method}, {bits} bits" if bits else str(method)

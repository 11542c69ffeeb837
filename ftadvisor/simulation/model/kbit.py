"""bitsandbytes' layers on meta: their true storage, and bitsandbytes' own forward and backward."""

from __future__ import annotations

from typing import Any

from ftadvisor.configuration.adapter_config import TRAINED_HEADS
from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.model.building import DTYPES
from ftadvisor.simulation.model.kept_inputs import KeepingLinear4bit
from ftadvisor.simulation.stack import Conv1D, quantizers, should_convert_module, torch
from ftadvisor.simulation.stack import bitsandbytes as bnb

BLOCK = 64
"""Weights that share an absmax (bitsandbytes/functional.py, quantize_4bit)."""
NESTED_BLOCK = 256
"""Scales that share a scale of their own, with double quantisation."""
CODE = 256
OUTLIERS = 6.0
"""llm_int8_threshold of Transformers' BitsAndBytesConfig."""


def quantize(model: Any, settings: Settings, trainer: Trainer) -> Any:
    """The model with its matrices as bitsandbytes holds them; head and embeddings stay, and so do
    experts whose matrices are one parameter.

    Raises UnsupportedError for a quantisation that is not bitsandbytes'.
    """
    how = settings.quantization
    if how not in ("nf4", "nf4-dq", "int8"):
        # GPTQModel and AutoAWQ choose theirs by GPU, group size and version.
        reason = "only bitsandbytes' kernels (nf4, nf4-dq, int8) are simulated"
        raise UnsupportedError.of(f"quantization {how}", reason, ["nf4", "the closed form"])
    compute = DTYPES["bf16" if settings.autocast == "none" else settings.autocast]
    if settings.autocast == "none" and settings.weights_dtype != "fp32":
        compute = DTYPES[settings.weights_dtype]
    _split_experts(model)
    kept = [] if trainer.quantizes_head else _kept(model)
    cls = KeepingLinear4bit if trainer.kbit_saves_input else bnb.nn.Linear4bit
    for name, module in list(model.named_modules()):
        # A subclass stays as it is (integrations/bitsandbytes.py, replace_with_bnb_linear).
        if type(module) not in (torch.nn.Linear, Conv1D) or not should_convert_module(name, kept):
            continue
        linear = _as_linear(module)
        nested = how == "nf4-dq"
        made = _int8(linear) if how == "int8" else four_bit(linear, nested, compute, cls=cls)
        model.set_submodule(name, made)
    model.is_loaded_in_8bit = how == "int8"
    model.is_loaded_in_4bit = how != "int8"
    model.is_quantized = True
    return model


def _kept(model: Any) -> list[str]:
    """Names of what stays: HfQuantizer.get_modules_to_not_convert, and heads that train.

    Transformers quantises an encoder's head, whose last parameter is a bias
    (get_keys_to_not_convert), and PEFT then fails to train it; whoever succeeds has named it in
    `llm_int8_skip_modules`.
    """
    trained = [f".*{head}" for head in TRAINED_HEADS]
    return [
        *quantizers.get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ()), *trained
    ]  # fmt: skip


def _split_experts(model: Any) -> None:
    """Llama 4's experts become linear layers (HfQuantizer._convert_model_for_quantization)."""
    for name, module in list(model.named_modules()):
        patch = quantizers.MODULES_TO_PATCH_FOR_QUANTIZATION.get(type(module).__name__)
        if patch is not None and "bitsandbytes" in patch["quantization_methods"]:
            with torch.device("meta"):
                made = patch["module_name"](model.config.get_text_config())
            model.set_submodule(name, made.to(model.dtype).requires_grad_(False))


def _as_linear(module: Any) -> Any:
    """GPT-2's Conv1D holds its matrix the other way round."""
    if type(module) is not Conv1D:
        return module
    columns, rows = module.weight.shape
    with torch.device("meta"):
        made = torch.nn.Linear(columns, rows, bias=False, dtype=module.weight.dtype)
    made.bias = module.bias
    return made


def four_bit(
    linear: Any, nested: bool, compute: Any, dtype: Any = None, cls: Any = bnb.nn.Linear4bit
) -> Any:
    """Two weights a byte, an absmax for 64 of them: in fp32, or itself in 8 bits.

    `dtype`: what the weights were quantised from; None: what they are in.
    """
    shape = torch.Size(linear.weight.shape)
    with torch.device("meta"):
        layer = cls(
            shape[1],
            shape[0],
            bias=False,
            compute_dtype=compute,
            compress_statistics=nested,
            quant_type="nf4",
        )
        packed = torch.empty(((shape.numel() + 1) // 2, 1), dtype=torch.uint8)
        state = bnb.functional.QuantState(
            shape=shape,
            code=torch.empty(16),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype or linear.weight.dtype,
            **_scales(-(-shape.numel() // BLOCK), nested),
        )
    layer.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=nested,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state
    layer.bias = linear.bias
    return layer


def _scales(blocks: int, nested: bool) -> dict[str, Any]:
    if not nested:
        return {"absmax": torch.empty(blocks)}
    state2 = bnb.functional.QuantState(
        absmax=torch.empty(-(-blocks // NESTED_BLOCK)),
        code=torch.empty(CODE),
        blocksize=NESTED_BLOCK,
        dtype=torch.float32,
    )
    absmax = torch.empty(blocks, dtype=torch.uint8)
    return {"absmax": absmax, "offset": torch.empty(()), "state2": state2}


def _int8(linear: Any) -> Any:
    """One byte a weight, one fp32 scale a row."""
    rows, columns = linear.weight.shape
    with torch.device("meta"):
        layer = bnb.nn.Linear8bitLt(
            columns, rows, bias=False, has_fp16_weights=False, threshold=OUTLIERS
        )
        weight = torch.empty((rows, columns), dtype=torch.int8)
        layer.weight = bnb.nn.Int8Params(
            weight,
            requires_grad=False,
            has_fp16_weights=False,
            CB=weight,
            SCB=torch.empty(rows),
        )
    layer.bias = linear.bias
    return layer


def hidden_tensors(module: Any) -> list[Any]:
    """What a quantised layer holds besides parameters and buffers."""
    weight = getattr(module, "weight", None)
    found: list[Any] = []
    state = getattr(weight, "quant_state", None)
    for part in (state, getattr(state, "state2", None)):
        if part is not None:
            found += [part.absmax, part.code, part.offset]
    found.append(getattr(weight, "SCB", None))
    inner = getattr(module, "state", None)
    found += [getattr(inner, "CB", None), getattr(inner, "SCB", None)]
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]

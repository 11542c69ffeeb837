"""The forward and the loss as a training program's own code makes them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.autocast import STATE
from ftadvisor.simulation.cuda.autocast import enabled as autocast_enabled
from ftadvisor.simulation.litgpt.program import LitgptForward
from ftadvisor.simulation.stack import loaded, torch, trl_utils

Forward = Callable[[Any, dict[str, Any]], tuple[Any, Any]]
"""Model and batch to loss, and the outputs that the loop may go on holding."""

LIGER_ROWS = 2048
IGNORED = -100


def forward_of(settings: Settings, trainer: Trainer) -> Forward:
    """What the program calls in each micro-batch.

    Raises UnsupportedError for a loss kernel that no code here stands for.
    """
    if trainer.model_code == "litgpt":
        return LitgptForward(settings, trainer)
    if settings.objective in ("seq_cls", "token_cls", "seq2seq"):
        return _own_loss
    if settings.loss_kernel == "chunked":
        return _fused_head
    if settings.loss_kernel == "fused_linear":
        return _liger
    if settings.loss_kernel != "torch":
        raise UnsupportedError.of(
            f"loss kernel {settings.loss_kernel}", "its code is not simulated", ["torch"]
        )
    plain = trainer.half_logits_held and not trainer.shift_copies_logits
    if plain and trainer.logits_upcast and not trainer.loss_chunk_tokens:
        return _own_loss
    return lambda model, batch: _older_loss(model, batch, trainer)


def _base_of(model: Any) -> Any:
    """The model inside PEFT's wrapper, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _own_loss(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    outputs = model(**batch)
    return outputs.loss, outputs


def _older_loss(model: Any, batch: dict[str, Any], trainer: Trainer) -> tuple[Any, Any]:
    """Losses that upcast and shift the logits, before Transformers 5, and those in chunks.

    Decoders alone shift: others run their own loss. What a decoder's forward still names while it
    computes the loss (the hidden states, the logits before they are shifted) lives until it is
    there.
    """
    base = _base_of(model)
    if base.config.is_encoder_decoder or type(base).__name__.endswith("ForMaskedLM"):
        return _own_loss(model, batch)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    head = base.get_output_embeddings()
    with holding([] if head is None else [head], inputs=True) as hidden:
        outputs = model(**inputs)
    labels = batch["labels"]
    logits = outputs.logits
    if trainer.logits_upcast and model.config.model_type not in trainer.upcasts_no_logits:
        logits = logits.float()
    if trainer.outputs_upcast or trainer.holds_upcast_outputs or not trainer.half_logits_held:
        outputs = type(outputs)(**{**outputs, "logits": logits})
    rows = logits
    if trainer.shift_copies_logits:
        rows = logits[..., :-1, :].contiguous()
        labels = labels[..., 1:].contiguous()
    else:
        labels = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous()
    loss = _cross_entropy(
        rows.reshape(-1, rows.size(-1)), labels.reshape(-1), trainer.loss_chunk_tokens
    )
    hidden.clear()
    return loss, outputs


@contextmanager
def holding(modules: Iterable[Any], *, inputs: bool = False) -> Generator[list[Any]]:
    """Keeps what modules put out, or read, until the caller clears the list."""
    held: list[Any] = []

    def hold(_: Any, read: Any, out: Any) -> None:
        held.append(read[0] if inputs else out)

    hooks = [module.register_forward_hook(hold) for module in modules]
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def _cross_entropy(rows: Any, labels: Any, chunk: int) -> Any:
    if not chunk:
        return torch.nn.functional.cross_entropy(rows, labels)
    parts = zip(rows.split(chunk), labels.split(chunk), strict=True)
    entropy = torch.nn.functional.cross_entropy
    return torch.cat([entropy(part, of, reduction="none") for part, of in parts]).mean()


def _fused_head(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """TRL 1.16, SFTTrainer.compute_loss."""
    outputs = model(**batch, fused_lm_head=True)
    per_token = -outputs.log_probs
    num_tokens = outputs.label_mask.sum()
    loss = per_token.sum() / torch.as_tensor(num_tokens).clamp(min=1)
    outputs.entropy.detach().sum()
    outputs.is_top1.sum()
    return loss, outputs


class _LigerLoss(torch.autograd.Function):
    """Liger's fused linear cross-entropy: logits of a chunk at a time, gradients in forward.

    Ref: liger_kernel/ops/fused_linear_cross_entropy.py of 0.8.5, on compute capability 8.0 or
    later: one buffer for all chunks' logits where the products need no cast, and gradients added in
    place.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any) -> Any:
        rows, width = hidden.shape
        vocab = weight.shape[0]
        num_chunks = max(1, -(-vocab // width))
        size = min(rows, 1 << max(0, (-(-rows // num_chunks) - 1).bit_length()))
        one_buffer = hidden.dtype == weight.dtype and hidden.dtype in _products_in(hidden)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if weight.requires_grad else None
        losses = torch.zeros(rows, dtype=torch.float32, device=hidden.device)
        buffer = hidden.new_empty((size, vocab)) if one_buffer else None
        for start in range(0, rows, size):
            part = hidden[start : start + size]
            if buffer is None:
                logits = part @ weight.t()
                grad_hidden[start : start + size] = logits @ weight
            else:
                logits = torch.mm(part, weight.t(), out=buffer[: len(part)])
                torch.mm(logits, weight, out=grad_hidden[start : start + size])
            # The kernel turns them into their own gradient in place.
            if grad_weight is not None:
                _added_in_place(grad_weight, logits.t(), part.to(logits.dtype))
            del logits
        ctx.save_for_backward(grad_hidden, grad_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden, grad_weight


def _products_in(hidden: Any) -> tuple[Any, ...]:
    """The dtypes that a product does not cast: autocast's own, or all where it is off."""
    return (torch.get_autocast_dtype(STATE),) if autocast_enabled() else (hidden.dtype,)


def _liger(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    base = _base_of(model)
    hidden = base.base_model(**inputs).last_hidden_state
    weight = base.get_output_embeddings().weight
    flat = hidden.reshape(-1, hidden.shape[-1])
    loss: Any = _LigerLoss.apply(flat, weight)
    return loss, None


def add_fused_head(model: Any) -> None:
    """TRL's own patch of the model's forward.

    Raises UnsupportedError for a model without the base that the patch calls (Llama 4's is its own
    language model, head included): there TRL fails as well.
    """
    base = _base_of(model)
    if base.base_model is base:
        what = f"TRL's fused head on model_type {quoted(base.config.model_type)}"
        reason = f"{type(base).__name__} has no base_model, which TRL's patch calls"
        raise UnsupportedError.of(what, reason, ["--trainer transformers-5", "--loss-kernel torch"])
    trl_utils().add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


class _NoKernel:
    """A Triton kernel's place: it works in buffers that its caller has made."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *_, **__: None


def _added_in_place(accumulated: Any, first: Any, second: Any) -> None:
    """`_addmm_fp32` on CUDA: cuBLAS reads half precision and adds in fp32, without a copy."""
    product = torch.ops.aten.addmm.out
    with torch.no_grad():
        product(accumulated, first, second, out=accumulated)


def _projected(
    tile: Any, hidden: Any, weight: Any, bias: Any, start: int, end: int, dtype: Any
) -> None:
    """`_project` on CUDA: cuBLAS writes the product of half-precision matrices in fp32."""
    with torch.no_grad():
        product = torch.ops.aten.addmm.out
        product(tile, hidden, weight[start:end].to(dtype).t(), beta=0, out=tile)
        if bias is not None:
            tile.add_(bias[start:end].float())


def _ceiling(a: int, b: int) -> int:
    return -(-a // b)


def _on_gpu(_: Any) -> bool:
    return True


_AS_ON_GPU: dict[str, Any] = {
    "_use_triton": _on_gpu,
    "_forward_kernel": _NoKernel(),
    "_stats_kernel": _NoKernel(),
    "_jsd_kernel": _NoKernel(),
    "_backward_kernel": _NoKernel(),
    "_addmm_fp32": _added_in_place,
    "_project": _projected,
}
_KERNELS = ("trl.kernels.chunked_logprob", "trl.kernels.chunked_divergence")
_CALLERS = ("trl.trainer.utils", "trl.trainer.distillation_trainer")


@contextmanager
def triton_kernels() -> Generator[None]:
    """TRL's fused heads as on a GPU, with their Triton kernels' allocations: none."""
    with ExitStack() as stack:
        for name in (*_KERNELS, *_CALLERS):
            module = loaded(name)
            for function, ours in _AS_ON_GPU.items():
                if hasattr(module, function):
                    stack.enter_context(mock.patch.object(module, function, ours))
            if module is not None and name in _KERNELS:
                stub = SimpleNamespace(cdiv=_ceiling)
                stack.enter_context(mock.patch.object(module, "triton", stub, create=True))
        yield

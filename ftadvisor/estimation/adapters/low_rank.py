"""LoRA and the techniques that are written like it: two narrow products beside the matrix."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.adapters.targets import matches
from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.numerics import FP32_BYTES
from ftadvisor.estimation.states import unpaged
from ftadvisor.schema.settings import Number
from ftadvisor.sources.techniques import target_table


def lora(t: Target, run: Run) -> Cost:
    """r * (in + out) parameters; B(A(dropout(x))) keeps x for A and A(x) for B.

    Ref: peft/tuners/lora/layer.py, Linear.forward.
    """
    if run.settings.peft_config.get("use_dora"):
        return dora(t, run)
    plain = _plain(t, run)
    # While these work, what the MLP has kept is not there yet, or gone.
    apart = t.reads_stream or t.linear.part in ("attention", "cross_attention")
    return plain if apart or run.settings.fused_lora else _at_work(t, run, plain)


def _at_work(t: Target, run: Run, plain: Cost) -> Cost:
    """What is alive while the matrix works whose input is widest, the layer's last.

    Forward: x, its copy in the adapter's dtype, which is a local variable of PEFT's forward to the
    end, and dropout's output, each where it is not what is kept; and the outputs that are added.
    A checkpoint's second forward stops at the last tensor that it has to make again, the input of
    B. Backward, when the base's matrix works: the gradient that A gave, x being gone.
    """
    e, w, c = run.input(t), run.weight, run.compute
    dropped = run.settings.lora_dropout > 0
    copies = 0 if e == w == c and not dropped else e
    copies += (w if w not in (e, c) else 0) + (w if dropped and w != c else 0)
    checkpointed = run.settings.gradient_checkpointing != "none"
    behind = t.block.traits.residual_dropouts or t.block.traits.place.startswith(("post", "sand"))
    early = checkpointed and not behind and not run.trainer.reentrant_checkpointing
    outputs = run.n.compute * (1 if early else 3) * t.rows
    freed = run.kept_input(t, run.settings.lora_dropout)
    return plain._replace(
        forward_per_token=copies * t.columns + outputs,
        backward_per_token=largest(0, e * t.columns - freed),
        freed_per_token=freed,
    )


def _plain(t: Target, run: Run) -> Cost:
    r, c = run.rank, run.compute
    if run.settings.fused_lora:
        kept = FUSED_INPUT * t.columns
    else:
        kept = run.kept_input(t, run.settings.lora_dropout)
    a, b = lora_sizes(t, run)
    frozen: Number = 0
    if run.settings.peft_config.get("init_lora_weights") == "mica":
        # MiCA trains A only; B stays as it was made from the weight's singular vectors.
        frozen, b = run.weight * b, 0
    bias = t.rows if run.settings.peft_config.get("lora_bias") else 0
    return Cost(
        params=a + b + bias,
        unpaged_params=unpaged(a) + unpaged(b) + bias,
        saved_per_token=kept + c * r,
        buffers_bytes=frozen,
        backward_per_token=c * (t.rows + t.columns) if run.settings.fused_lora else 0,
    )


def lora_sizes(t: Target, run: Run) -> tuple[Number, Number]:
    """Elements of A and of B; block-diagonal ones (BD-LoRA) hold one block per row.

    Ref: peft/tuners/lora/variants.py, BdLoraLinearVariant.
    """
    r = run.rank
    a, b = r * t.columns, r * t.rows
    blocks = run.settings.peft_config.get("use_bdlora")
    if isinstance(blocks, dict):
        number = int(blocks.get("nblocks") or 1)  # pyright: ignore
        if matches(t.linear, t.block, tuple(blocks.get("target_modules_bd_a") or ())):  # pyright: ignore
            a = a // number
        if matches(t.linear, t.block, tuple(blocks.get("target_modules_bd_b") or ())):  # pyright: ignore
            b = b // number
    return a, b


FUSED_INPUT = 2.5
"""Bytes per feature that fused LoRA kernels keep of a target's input. Two in half precision, and
half a one-byte dropout mask: fitted on the fused runs of fms-acceleration, not read in code."""


def dora(t: Target, run: Run) -> Cost:
    """LoRA and one magnitude per output row.

    result + ((m / norm - 1) * base + m / norm * B(A(x)) * scaling): both products are kept for the
    gradient of m, the base's in its own dtype, B's in the adapter's. With dropout the base product
    is computed again from the dropped-out x. The norm needs W + B A whole, twice in the dtype of x,
    built by running A and B over an identity matrix; its graph is dropped at once.
    Ref: peft/tuners/lora/dora.py, DoraLinearLayer.forward.
    """
    plain = _plain(t, run)
    wide = max(run.weight, run.input(t))
    base = run.compute if run.settings.lora_dropout else run.n.compute
    matrix = t.rows * t.columns
    return plain._replace(
        params=plain.params + t.rows,
        unpaged_params=sum(unpaged(size) for size in lora_sizes(t, run)) + t.rows,
        saved_per_token=plain.saved_per_token + (base + run.compute) * t.rows,
        saved_bytes=3 * run.weight * t.rows,
        temporary_bytes=wide * (3 * matrix + t.columns**2),
        backward_per_token=run.compute * (t.rows + t.columns) + 2 * FP32_BYTES * t.rows,
    )


def adalora(t: Target, run: Run) -> Cost:
    """A, B and a diagonal E at the rank that training starts with.

    dropout(x) @ (A * E).T @ B.T: keeps x, x (A E)ᵀ, and A * E; 1.5 r at the start, as PEFT's
    defaults (12 for 8), where init_r is not given. PEFT 0.21 by accident also trains the counter of
    ranks where the base is in half precision; that is not counted. The allocator of ranks keeps
    three averages of the size of the parameters.
    Ref: peft/tuners/adalora/layer.py, SVDLinear and RankAllocator; tuners_utils.py,
    cast_adapter_dtype.
    """
    r = initial_rank(run)
    c = run.compute
    return Cost(
        params=r * (t.rows + t.columns + 1),
        saved_per_token=run.kept_input(t, run.settings.lora_dropout) + c * r,
        saved_bytes=c * r * t.columns,
        buffers_bytes=3 * run.weight * r * (t.rows + t.columns + 1),
        backward_per_token=c * (t.rows + t.columns),
    )


def initial_rank(run: Run) -> Number:
    """AdaLoRA's rank before it is pruned."""
    given = run.settings.peft_config.get("init_r")
    return 3 * run.rank // 2 if given is None else given


def ia3(t: Target, run: Run) -> Cost:
    """One scale per output feature, or per input feature of feed-forward modules.

    y * l keeps y: in the base's dtype (PEFT multiplies without a cast and converts after), for
    feed-forward modules x cast to the scale's dtype. Ref: peft/tuners/ia3/layer.py.
    """
    forward = is_feedforward(t, run)
    width = t.columns if forward else t.rows
    e = run.n.compute
    if forward:
        kept = 0 if e == run.weight and t.input_kept else run.weight * width
    else:
        kept = e * width
    return Cost(
        params=width,
        saved_per_token=kept,
        saved_bytes=run.weight * width,
        backward_per_token=2 * run.weight * width,
    )


def is_feedforward(t: Target, run: Run) -> bool:
    """Whether (IA)³ scales a module's input instead of its output."""
    given = run.settings.peft_config.get("feedforward_modules")
    names = (
        given if given is not None else target_table("ia3_feedforward").get(run.model.model_type)
    )
    if names is None:
        return t.linear.part == "mlp" and not t.reads_stream
    return matches(t.linear, t.block, tuple(names))


def gralora(t: Target, run: Run) -> Cost:
    """A grid of k x k blocks, each with its own share of the rank.

    A is (k, in/k, r), B is (k, r, out/k): as many parameters as LoRA; every one of the k rows of
    blocks keeps r features. hybrid_r adds a plain LoRA. Ref: peft/tuners/gralora/layer.py.
    """
    r, hybrid = run.rank, run.option("hybrid_r")
    kept = run.kept_input(t, run.settings.peft_config.get("gralora_dropout", 0.0))
    return Cost(
        params=(r + hybrid) * (t.rows + t.columns),
        saved_per_token=kept + run.compute * (run.option("gralora_k") * r + hybrid),
        backward_per_token=run.compute * (t.rows + t.columns),
    )


def delora(t: Target, run: Run) -> Cost:
    """LoRA with normalised rows of A and columns of B and a trained strength.

    x is multiplied by the weight's column norms, a frozen vector, before A, so a product of its own
    is kept; the low-rank features are kept before and after their scale.
    Ref: peft/tuners/delora/layer.py, Linear.forward.
    """
    r, c = run.rank, run.compute
    return Cost(
        params=r * (t.rows + t.columns) + 1,
        saved_per_token=c * t.columns + 2 * c * r,
        buffers_bytes=FP32_BYTES * t.columns,
        backward_per_token=c * (t.rows + 2 * t.columns),
    )


def deft(t: Target, run: Run) -> Cost:
    """y - (y P) Qᵀ + (x Rᵀ) Qᵀ, in fp32; PaRa is the first part only.

    The output in fp32 is kept for the gradient of the projection, x for that of R, and the narrow
    features of both. Ref: peft/tuners/deft/layer.py, Linear.forward.
    """
    r = run.rank
    c = run.compute if run.n.autocast else FP32_BYTES
    kept: Number = c * (t.rows + r)
    params: Number = r * t.rows
    once: Number = FP32_BYTES * r * t.rows
    if not run.option("para"):
        params = params + r * t.columns
        kept = kept + c * r + (c * t.columns if run.n.autocast else run.kept_as(t, c))
        once = once + c * r * t.columns
    return Cost(
        params=params,
        saved_per_token=kept,
        saved_bytes=once,
        backward_per_token=2 * FP32_BYTES * t.rows + c * t.columns,
    )


def lily(t: Target, run: Run) -> Cost:
    """LoRA whose B is a mixture of shared ones, weighted by a router of the low-rank features.

    Kept: x, its features, the router's softmax, and the mixed B. A layer owns its router; A and B
    are counted by `lily_shared`. Ref: peft/tuners/lily/layer.py, Linear.forward.
    """
    r, c, experts = run.rank, run.compute, run.option("num_B")
    return Cost(
        params=r * experts,
        saved_per_token=run.kept_input(t) + c * (r + experts),
        saved_bytes=c * r * t.rows,
        backward_per_token=c * (t.rows + t.columns),
    )


def lily_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """One A for every stride_A matrices of a name and shape, one set of num_B Bs for all of them.

    Ref: peft/tuners/lily/model.py, _post_injection_hook.
    """
    r, stride = run.rank, int(run.option("stride_A"))
    alike: dict[tuple[str, int, int], int] = {}
    for t in found:
        kind = (t.linear.name, t.rows, t.columns)
        alike[kind] = alike.get(kind, 0) + t.block.num_layers
    params: Number = 0
    for (_, rows, columns), matrices in alike.items():
        params = params + r * (-(-matrices // stride) * columns + run.option("num_B") * rows)
    return Cost(params=params)


def miss(t: Target, run: Run) -> Cost:
    """x summed over groups of in/r features, times one r x out block.

    Nothing but those r sums is kept. `bat` multiplies the weight itself by the block: the weight in
    fp32 and the product are kept with x. `mini` repeats a block of mini_r columns.
    Ref: peft/tuners/miss/layer.py (bone before 0.17), Linear.forward.
    """
    r, c = run.rank, run.compute
    kind = run.option("init_weights")
    if kind == "bat":
        matrix = t.rows * t.columns
        return Cost(
            params=r * t.rows,
            saved_per_token=run.kept_input(t),
            saved_bytes=2 * c * matrix,
            temporary_bytes=3 * run.weight * matrix,
            backward_per_token=c * (t.rows + t.columns),
        )
    mini = kind == "mini"
    return Cost(
        params=r * (run.option("mini_r") if mini else t.rows),
        saved_per_token=c * r,
        saved_bytes=c * r * t.rows if mini else 0,
        backward_per_token=c * (t.rows + 2 * t.columns),
    )

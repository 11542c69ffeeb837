"""Techniques whose matrices are frozen, or read from a bank that all layers share."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.adapters.dense import INT64_BYTES
from ftadvisor.estimation.arithmetic import ceil_div
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.schema.settings import Number


def _casts(run: Run, elements: Number) -> Number:
    """Half-precision copies of frozen matrices that autocast makes for every use [bytes].

    Its cache holds trained parameters only, so each layer keeps its own for x's gradient.
    Ref: aten/src/ATen/autocast_mode.cpp, cached_cast.
    """
    return HALF_BYTES * elements if run.n.autocast else 0


def vera(t: Target, run: Run) -> Cost:
    """Frozen A and B; two trained scale vectors, of r and of out features.

    Both products that a vector scales are kept, x is not. Ref: peft/tuners/vera/layer.py.
    """
    r, c = run.rank, run.compute
    mask = run.n.dropout_mask * t.columns if run.settings.peft_config.get("vera_dropout") else 0
    return Cost(
        params=t.rows + r,
        saved_per_token=c * (t.rows + r) + mask,
        saved_bytes=_casts(run, r * (t.rows + t.columns)),
        backward_per_token=c * (2 * t.rows + t.columns),
    )


def pvera(t: Target, run: Run) -> Cost:
    """VeRA with a mean and a log-variance per low-rank feature, and a draw between them.

    exp(log-variance / 2) and the noise stay in the adapter's dtype under autocast too.
    Ref: peft/tuners/pvera/layer.py, _reparametrize.
    """
    r, c = run.rank, run.compute
    return Cost(
        params=t.rows + 2 * r,
        saved_per_token=c * (t.rows + 2 * r) + 2 * run.weight * r,
        saved_bytes=_casts(run, r * (t.rows + 2 * t.columns)),
        backward_per_token=c * (2 * t.rows + t.columns),
    )


def vera_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """A for the widest input, B for the widest output, once. PVeRA's A has two rows a rank."""
    rows = max(t.rows for t in found)
    columns = max(t.columns for t in found)
    halves = 2 if run.settings.technique == "pvera" else 1
    return Cost(buffers_bytes=run.weight * run.rank * (halves * columns + rows))


def randlora(t: Target, run: Run) -> Cost:
    """min(in, out) / r shared random products, mixed by trained scales of the smaller one.

    The scaled smaller base (r * bases x min) is formed in each forward and kept; x is kept where
    the scaled base reads it (in <= out), else the features between the bases are.
    Ref: peft/tuners/randlora/layer.py, get_scaled_bases.
    """
    r, c = run.rank, run.compute
    smaller, larger = min(t.rows, t.columns), max(t.rows, t.columns)
    bases = ceil_div(smaller, r)
    kept = run.kept_input(t) if t.columns <= t.rows else c * r * bases
    return Cost(
        params=r * bases + bases * smaller,
        saved_per_token=kept,
        saved_bytes=c * r * bases * smaller + _casts(run, larger * r * bases),
        temporary_bytes=run.weight * r * bases * smaller,
        backward_per_token=c * (t.rows + t.columns),
    )


def randlora_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """The two random bases, once, large enough for the widest matrix."""
    r = run.rank
    rows, columns = max(t.rows for t in found), max(t.columns for t in found)
    smaller, larger = min(rows, columns), max(rows, columns)
    return Cost(buffers_bytes=run.weight * (r * smaller + larger * ceil_div(smaller, r) * r))


def vblora(t: Target, run: Run) -> Cost:
    """A and B are put together from vectors of one bank, the top k of softmaxed logits.

    Kept: the chosen vectors, the finished A and B, positions and weights of the choice.
    Ref: peft/tuners/vblora/layer.py, _get_low_rank_matrix.
    """
    r, c, k = run.rank, run.compute, run.option("topk")
    length = run.option("vector_length")
    parts = r * (t.rows + t.columns) / length
    return Cost(
        params=r * (t.rows // length + t.columns // length) * run.option("num_vectors"),
        saved_per_token=run.kept_input(t) + c * r,
        saved_bytes=parts * length * (k * run.weight + c) + parts * k * (INT64_BYTES + FP32_BYTES),
        backward_per_token=c * (t.rows + t.columns),
    )


def vblora_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """The bank."""
    return Cost(params=run.option("num_vectors") * run.option("vector_length"))


def unilora(t: Target, run: Run) -> Cost:
    """A and B are read from one trained vector at fixed places, with fixed scales.

    The places (int64) and scales are buffers; A and B are formed in each forward and kept.
    Ref: peft/tuners/unilora/layer.py.
    """
    r, c = run.rank, run.compute
    size = r * (t.rows + t.columns)
    return Cost(
        saved_per_token=run.kept_input(t) + c * r,
        saved_bytes=c * size,
        buffers_bytes=(INT64_BYTES + FP32_BYTES) * size,
        backward_per_token=c * (t.rows + t.columns),
    )


def unilora_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """The vector."""
    return Cost(params=run.option("theta_d_length"))


def tinylora(t: Target, run: Run) -> Cost:
    """Frozen singular directions, mixed by an r x r matrix that u trained numbers combine.

    Kept: x in the r directions. Ref: peft/tuners/tinylora/layer.py.
    """
    r, u = run.rank, run.option("u")
    size = r * (t.rows + t.columns)
    return Cost(
        saved_per_token=run.compute * r,
        saved_bytes=run.compute * r * r + _casts(run, size + u * r * r),
        buffers_bytes=run.weight * (size + u * r * r),
        backward_per_token=run.compute * (t.rows + t.columns),
    )


def tinylora_shared(found: tuple[Target, ...], run: Run) -> Cost:
    """u numbers for every group of matrices that weight_tying makes.

    Ref: peft/tuners/tinylora/model.py, _create_and_replace.
    """
    matrices = sum(t.linear.count * t.block.num_layers for t in found)
    groups = max(1, round(matrices * (1 - run.option("weight_tying"))))
    size = max(1, matrices // groups)
    return Cost(params=run.option("u") * min(groups, ceil_div(matrices, size)))


def adamss(t: Target, run: Run) -> Cost:
    """A and B for each of num_subspaces clusters of output rows in r leading directions.

    The clusters share out the rows, so all Bs together have out * subspace_rank elements. Kept: x
    in the r directions and each cluster's features; the frozen directions are cast to the dtype of
    the computation. Ref: peft/tuners/adamss/layer.py, update_layer and forward.
    """
    r, c = run.rank, run.compute
    clusters, rank = run.option("num_subspaces"), run.option("subspace_rank")
    columns = t.columns + (1 if t.linear.bias else 0)
    return Cost(
        params=clusters * rank * r + t.rows * rank,
        saved_per_token=c * (r + clusters * rank),
        saved_bytes=_casts(run, r * columns),
        buffers_bytes=run.weight * r * columns + INT64_BYTES * t.rows,
        backward_per_token=c * (2 * t.rows + t.columns),
    )


def frod(t: Target, run: Run) -> Cost:
    """U (S + L) Vᵀ in place of the weight: a diagonal and sparse_rate of the off-diagonal train.

    Kept: x in V's directions, the sparse elements (twice where in half precision) with their
    places, and for a half-precision base S made dense, for CUDA multiplies no sparse matrices in
    half precision. U and V, which PEFT leaves on the CPU, are brought over in each forward and kept
    for x's gradient. Ref: peft/tuners/frod/layer.py, forward and _sparse_activation_mm.
    """
    e = run.n.compute
    elements = max(
        1, min(int(t.columns**2 * run.option("sparse_rate")), t.columns * (t.columns - 1))
    )
    half = e == HALF_BYTES
    frozen = run.n.weight * (t.rows * t.columns + t.columns**2)
    dense = e * t.columns**2 if half else 0
    offloaded = bool(run.option("runtime_offload_base_weight"))
    return Cost(
        params=elements + t.columns,
        saved_per_token=e * t.columns,
        saved_bytes=frozen + dense + (2 * INT64_BYTES + FP32_BYTES) * elements,
        buffers_bytes=-run.n.weight * t.rows * t.columns if offloaded else 0,
        temporary_bytes=2 * e * t.columns**2,
        backward_per_token=e * (t.rows + 2 * t.columns),
    )

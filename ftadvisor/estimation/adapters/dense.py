"""Techniques that form an update of the whole matrix, and keep it from forward to backward."""

from __future__ import annotations

import re

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.schema.settings import Number

INT64_BYTES = 8
COMPLEX_BYTES = 8
"""Two fp32 numbers."""


def _materialised(t: Target, run: Run, params: Number, *, temporaries: float) -> Cost:
    """x @ delta.T: the update is kept for x's gradient, x (in the update's dtype) for the update's.

    `temporaries` are matrix-sized tensors in the adapter's dtype that the update's own forward or
    backward holds at once beside it.
    """
    matrix = t.rows * t.columns
    return Cost(
        params=params,
        saved_per_token=run.kept_input(t),
        saved_bytes=run.compute * matrix,
        temporary_bytes=temporaries * run.weight * matrix,
        backward_per_token=run.compute * (t.rows + t.columns),
    )


def loha(t: Target, run: Run) -> Cost:
    """(A1 B1) * (A2 B2); both products are formed again in the backward.

    There the scaled gradient, one product and their product are alive at once, beside the
    gradient that arrives. Ref: peft/tuners/loha/layer.py, HadaWeight.
    """
    found = _materialised(t, run, 2 * run.rank * (t.rows + t.columns), temporaries=4)
    return found._replace(saved_per_token=run.kept_as(t, run.compute))


def lokr(t: Target, run: Run) -> Cost:
    """A Kronecker product of a small matrix and a large one, the large one of low rank.

    The large one is kept when it is a product. Ref: peft/tuners/lokr/layer.py, update_layer.
    """
    r = run.rank
    factor = run.option("decompose_factor")
    in_small, in_large = factors(t.columns, factor)
    out_small, out_large = factors(t.rows, factor)
    if run.option("decompose_both") and r < max(out_small, in_small) / 2:
        params: Number = r * (out_small + in_small)
    else:
        params = out_small * in_small
    kept: Number = 0
    if r < max(out_large, in_large) / 2:
        params = params + r * (out_large + in_large)
        kept = run.compute * out_large * in_large
    else:
        params = params + out_large * in_large
    found = _materialised(t, run, params, temporaries=2)
    return found._replace(saved_bytes=found.saved_bytes + kept)


def factors(dimension: int, factor: int) -> tuple[int, int]:
    """Two factors of a dimension: `factor` and the rest, else the pair nearest to its square root.

    With a positive factor that does not divide, the pair's smaller one is at most the factor.
    Ref: peft/tuners/lokr/layer.py, factorization.
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    m, n = 1, dimension
    length = m + n
    while m < n:
        new_m = m + 1
        while dimension % new_m:
            new_m += 1
        new_n = dimension // new_m
        if new_m + new_n > length or new_m > limit:
            break
        m, n = new_m, new_n
    return (m, n) if m <= n else (n, m)


def hira(t: Target, run: Run) -> Cost:
    """W * (A B), the product kept; B A itself is formed again by nobody: its gradient needs W only.

    Ref: peft/tuners/hira/layer.py, Linear.forward.
    """
    return _materialised(t, run, run.rank * (t.rows + t.columns), temporaries=2)


def fourierft(t: Target, run: Run) -> Cost:
    """n_frequency coefficients in a spectrum of the matrix's size, transformed back.

    Forward: the spectrum, its complex copy and the complex result; their positions are buffers.
    Ref: peft/tuners/fourierft/layer.py, get_delta_weight.
    """
    n = run.option("n_frequency")
    found = _materialised(t, run, n, temporaries=1 + 2 * COMPLEX_BYTES / FP32_BYTES)
    return found._replace(buffers_bytes=2 * INT64_BYTES * n)


def waveft(t: Target, run: Run) -> Cost:
    """n_frequency coefficients in a wavelet decomposition of the matrix's size.

    The inverse transform keeps the coefficients, as many as the matrix has elements, in bands.
    Ref: peft/tuners/waveft/layer.py, get_delta_weight; waverec2d.py.
    """
    n = run.option("n_frequency")
    found = _materialised(t, run, n, temporaries=3)
    if not run.option("use_idwt"):
        return found._replace(buffers_bytes=2 * INT64_BYTES * n)
    matrix = t.rows * t.columns
    # One int64 position and one bool per coefficient are kept to scatter its gradient.
    return found._replace(
        saved_per_token=run.kept_as(t, run.compute),
        saved_bytes=2 * run.compute * matrix + (INT64_BYTES + 1) * n,
        buffers_bytes=2 * INT64_BYTES * n,
    )


def glora(t: Target, run: Run) -> Cost:
    """W + W * A + B, and for a matrix with a bias b + b * D + E + W C, in the base's dtype.

    The effective weight is kept; A and B are formed in the adapter's dtype and cast.
    Ref: peft/tuners/glora/layer.py, update_layer and forward.
    """
    r = run.rank
    bias = t.linear.bias
    sizes = {"lora": r * (t.rows + t.columns), "vector": t.rows, "constant": 1}
    params: Number = 2 * sizes.get(run.option("config_A_B"), 0)
    if bias:
        params = params + {"lora": r * (t.columns + 1), "vector": t.columns}.get(
            run.option("config_C"), 0
        )
        params = params + 2 * {"vector": t.rows, "constant": 1}.get(run.option("config_D_E"), 0)
    matrix = t.rows * t.columns
    return Cost(
        params=params,
        saved_per_token=run.kept_as(t, run.n.compute),
        saved_bytes=run.n.weight * matrix,
        temporary_bytes=(2 * run.n.weight + 2 * run.weight) * matrix,
        backward_per_token=run.n.compute * (t.rows + t.columns),
    )


def peanut(t: Target, run: Run) -> Cost:
    """A small network over the rows of Wᵀ puts out the update.

    A and B are (out, r), `depth` pairs of r x r between them. Kept: the weight in the adapter's
    dtype where it is another, and in * r features for every stage (two for a middle one: its input
    and its activation's). Ref: peft/tuners/peanut/layer.py, get_delta_weight.
    """
    r, depth = run.rank, run.option("depth")
    found = _materialised(t, run, 2 * r * t.rows + 2 * depth * r * r, temporaries=2)
    copies = run.compute * t.rows * t.columns if run.compute != run.n.weight else 0
    if run.n.autocast:
        copies = HALF_BYTES * t.rows * t.columns
    return found._replace(
        saved_per_token=run.kept_as(t, run.compute),
        saved_bytes=found.saved_bytes + copies + (1 + 3 * depth) * run.compute * r * t.columns,
    )


def osf(t: Target, run: Run) -> Cost:
    """The low singular directions of the weight, trained beside frozen copies of them.

    min(in, out) - effective_rank directions, effective_rank being half of them by default, or a
    fraction; the frozen start of all three factors and the high factor that is not square are
    buffers. [U S, -U0 S0] and [V, V0] are concatenated in each forward and kept, with the 2 * low
    features between them. Ref: peft/tuners/osf/layer.py, update_layer and forward.
    """
    low = low_rank(t, run)
    c, w = run.compute, run.weight
    tall = t.rows + t.columns
    high = min(t.rows, t.columns) - low
    rectangular = max(t.rows, t.columns) if t.rows != t.columns else 0
    return Cost(
        params=low * (tall + 1),
        saved_per_token=run.kept_input(t) + 2 * c * low,
        saved_bytes=2 * c * low * tall,
        buffers_bytes=w * (low * (tall + 1) + high * rectangular),
        temporary_bytes=2 * w * low * tall,
        backward_per_token=c * (t.rows + t.columns),
    )


def low_rank(t: Target, run: Run) -> int:
    """Singular directions that OSF trains."""
    smaller = min(t.rows, t.columns)
    patterns: dict[str, float] = run.settings.peft_config.get("rank_pattern") or {}
    rank: float | None = run.settings.peft_config.get("effective_rank")
    for pattern, own in patterns.items():
        if re.search(pattern, t.linear.name) or pattern.endswith("." + t.linear.name):
            rank = own
            break
    if rank is None:
        return smaller - smaller // 2
    high = int(rank * smaller) if isinstance(rank, float) and 0 < rank <= 1 else int(rank)
    return smaller - min(high, smaller)


def shira(t: Target, run: Run) -> Cost:
    """r * (in + out) scattered elements, added to a copy of the weight, which is kept.

    Positions are int32 buffers; the sparse tensor keeps them as int64, and its values.
    Ref: peft/tuners/shira/layer.py, Linear.forward.
    """
    n = run.rank * (t.rows + t.columns)
    matrix = t.rows * t.columns
    return Cost(
        params=n,
        saved_per_token=run.kept_as(t, run.n.compute),
        saved_bytes=run.n.weight * matrix + (2 * INT64_BYTES + run.weight) * n,
        buffers_bytes=INT64_BYTES * n,
        temporary_bytes=run.n.weight * matrix,
        backward_per_token=run.n.compute * (t.rows + t.columns),
    )

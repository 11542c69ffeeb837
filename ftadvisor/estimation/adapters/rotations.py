"""Techniques that rotate features or weights, and other structured matrices."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES

INDEX_BYTES = 8
_FOURIER_BYTES = 8
"""A complex number of two fp32."""


def oft(t: Target, run: Run) -> Cost:
    """Rotates x by blocks, each the Cayley transform of a skew-symmetric matrix.

    Kept: x, the rotation, and the powers of the skew matrix that the Neumann series multiplies
    (num_terms - 2 of them, at least two); autocast keeps half-precision copies beside them.
    Ref: peft/tuners/oft/layer.py, OFTRotationModule.
    """
    blocks, size = oft_blocks(t, run)
    terms = run.option("num_cayley_neumann_terms") if run.option("use_cayley_neumann") else 4
    kept = max(3, terms - 1)
    if run.n.autocast:
        kept = 2 * kept - 1
    shared = run.option("block_share")
    own = 1 if shared else blocks
    elements = size * size
    return Cost(
        params=own * size * (size - 1) // 2,
        saved_per_token=run.kept_input(t),
        saved_bytes=run.compute * elements * (kept * own + (blocks - own)),
        buffers_bytes=INDEX_BYTES * size * (size - 1),
        temporary_bytes=2 * run.weight * elements * blocks,
        backward_per_token=2 * run.compute * t.columns,
    )


def oft_blocks(t: Target, run: Run) -> tuple[int, int]:
    """How many blocks, and how large: `r` blocks where it is given, else of oft_block_size."""
    given = run.settings.peft_config.get("r")
    if given:
        blocks = nearest_divisor(t.columns, int(given))
        return blocks, t.columns // blocks
    size = nearest_divisor(t.columns, int(run.option("oft_block_size")))
    return t.columns // size, size


def nearest_divisor(dimension: int, wanted: int) -> int:
    """The divisor that PEFT takes for a number that does not divide: the nearest, the lower of two.

    Ref: peft/tuners/oft/layer.py, adjust_oft_parameters.
    """
    if wanted < dimension:
        higher = wanted
        while higher <= dimension and dimension % higher:
            higher += 1
    else:
        return dimension
    lower = wanted
    while lower > 1 and dimension % lower:
        lower -= 1
    return lower if wanted - lower <= higher - wanted else higher


def boft(t: Target, run: Run) -> Cost:
    """Rotates x by a whole matrix, a product of butterfly factors, and scales the output.

    The permutation of every factor is an fp32 buffer of in x in, on the CPU until a trainer moves
    the adapted model. Kept: the rotation and the blocks
    placed in a matrix, both in x's dtype, with a copy of the permutation where that is not fp32; x
    and the output before its scale. Without its own CUDA kernel PEFT uses one factor.
    Ref: peft/tuners/boft/layer.py, Linear.forward.
    """
    number = run.settings.peft_config.get("boft_block_num") or 0
    size = t.columns // number if number else int(run.option("boft_block_size"))
    factors = int(run.option("boft_n_butterfly_factor"))
    square = t.columns**2
    e = run.n.compute
    copies = 3 if e == HALF_BYTES else 2
    return Cost(
        params=factors * t.columns * size + t.rows,
        saved_per_token=run.kept_as(t, run.n.compute) + e * t.rows,
        saved_bytes=factors * (copies * e * square + 3 * FP32_BYTES * t.columns * size)
        + FP32_BYTES * t.columns
        + (e + FP32_BYTES) * t.rows,
        buffers_bytes=factors * FP32_BYTES * square if run.trainer.moves_model else 0,
        temporary_bytes=2 * FP32_BYTES * square,
        backward_per_token=e * (2 * t.rows + t.columns),
    )


def road(t: Target, run: Run) -> Cost:
    """Rotates pairs of output features; road_2 and road_4 have more angles.

    Output and its swapped, negated half are kept in the dtype of the angles.
    Ref: peft/tuners/road/layer.py, _apply_road.
    """
    angles = {"road_1": 1, "road_2": 2, "road_4": 4}[run.option("variant")]
    return Cost(
        params=angles * t.rows,
        saved_per_token=2 * run.weight * t.rows,
        saved_bytes=(4 if angles == 2 else 6) * run.weight * t.rows,
        backward_per_token=3 * run.weight * t.rows,
    )


def c3a(t: Target, run: Run) -> Cost:
    """Circulant blocks, applied by Fourier transforms in fp32: only x is kept.

    Ref: peft/tuners/c3a/utils.py, BlockCircularConvolution.
    """
    wide = run.input(t) == FP32_BYTES and t.input_kept
    return Cost(
        params=t.rows * t.columns // int(run.option("block_size")),
        saved_per_token=0 if wide else FP32_BYTES * t.columns,
        backward_per_token=_FOURIER_BYTES * (t.rows + 2 * t.columns),
    )


def psoft(t: Target, run: Run) -> Cost:
    """Rotates x in the r leading singular directions of the weight, which are buffers.

    Kept: x in those directions, and some r x r matrices of the Cayley transform. After a full
    singular value decomposition the r rows are a view of the whole factor, which stays.
    Ref: peft/tuners/psoft/layer.py, OrthLayer and Linear.forward.
    """
    r = run.rank
    square = r * r
    params = r * (r - 1) // 2 if run.option("psoft_orth") else square
    for vector in ("psoft_mag_a", "psoft_mag_b"):
        if run.option(vector):
            params = params + r
    size = r * (t.rows + t.columns)
    whole = min(t.rows, t.columns) if run.option("psoft_svd") == "full" else r
    casts = HALF_BYTES * size if run.n.autocast else 0
    return Cost(
        params=params,
        saved_per_token=run.compute * r,
        saved_bytes=(6 if run.option("use_cayley_neumann") else 5) * run.weight * square + casts,
        buffers_bytes=run.weight * (r * t.rows + whole * t.columns) + INDEX_BYTES * r * (r - 1),
        temporary_bytes=3 * run.weight * square,
        backward_per_token=run.compute * (t.rows + t.columns),
    )

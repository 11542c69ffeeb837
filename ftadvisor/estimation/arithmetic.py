"""The few operations that differ between plain numbers and numpy arrays.

The formulas are written once. With plain numbers nothing here imports numpy.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.schema.settings import Number


def is_scalar(value: Number) -> bool:
    """Whether a value is a plain number (bool, int or float)."""
    return isinstance(value, int | float)


def largest(*values: Number) -> Number:
    """Elementwise maximum."""
    try:
        return max(values)
    except ValueError:
        # An array of comparisons has no truth value.
        pass
    import numpy

    result: Any = values[0]
    for value in values[1:]:
        result = numpy.maximum(result, value)
    return result


def smallest(*values: Number) -> Number:
    """Elementwise minimum."""
    try:
        return min(values)
    except ValueError:
        pass
    import numpy

    result: Any = values[0]
    for value in values[1:]:
        result = numpy.minimum(result, value)
    return result


def select(condition: Any, then: Number, otherwise: Number) -> Number:
    """`then` where the condition holds, else `otherwise`, elementwise."""
    if isinstance(condition, bool):
        return then if condition else otherwise
    import numpy

    where: Any = numpy.where
    return where(condition, then, otherwise)


def ceil_div(value: Number, step: int) -> Number:
    """Smallest multiple count of `step` that holds `value`."""
    return -(-value // step)

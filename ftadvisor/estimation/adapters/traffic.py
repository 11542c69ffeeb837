"""What an adapter launches and moves in one forward and backward: its time, but for its FLOPs.

Counted on PEFT 0.21, Transformers 5.x and torch 2.13 over the operations of ATen that are no views,
of a Llama layer with the adapter less the same layer without: `moved` in tests/peft_truth.py,
which the slow tests repeat (but AdaMSS, which needs scikit-learn: counted once). An
operation moves what it reads and writes. PEFT's defaults decide, but for `_VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ftadvisor.estimation.adapters.cost import Run
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.schema.model import Block


class Traffic(NamedTuple):
    """Of one adapted matrix; of techniques that adapt layers, of one layer."""

    kernels: int
    widths: float
    """Numbers moved for each token, over the mean of the matrix's rows and columns."""
    matrices: float = 0.0
    """Numbers moved whatever the tokens, over those of the matrix."""


class Matrix(NamedTuple):
    """One that is adapted, in all layers of its block."""

    block: Block
    rows: int
    columns: int


_LORA: Final = Traffic(15, 20.7)
_DORA: Final = Traffic(37, 38.7, 11.4)
_MISS: Final = Traffic(12, 16.1)
_PROMPT: Final = Traffic(54, 30.0)

_TRAFFIC: Final = {
    "lora": _LORA,
    "rslora": _LORA,
    "qlora": _LORA,
    "dora": _DORA,
    "adalora": Traffic(25, 29.3),
    "ia3": Traffic(9, 9.9),
    "vera": Traffic(19, 22.4),
    "pvera": Traffic(28, 23.6),
    "loha": Traffic(26, 17.1, 24.3),
    "lokr": Traffic(22, 17.1, 14.0),
    "oft": Traffic(39, 18.3, 6.1),
    "boft": Traffic(41, 13.3, 23.7),
    "miss": _MISS,
    "bone": _MISS,
    "c3a": Traffic(27, 54.0, 0.8),
    "deft": Traffic(29, 31.1),
    "delora": Traffic(50, 18.4),
    "fourierft": Traffic(22, 17.1, 36.0),
    "waveft": Traffic(50, 17.1, 35.0),
    "glora": Traffic(24, 11.1, 19.7),
    "gralora": Traffic(18, 20.6),
    "hira": Traffic(15, 17.1, 11.1),
    "lily": Traffic(26, 18.7),
    "osf": Traffic(20, 20.1, 14.2),
    "peanut": Traffic(19, 15.0, 13.8),
    "psoft": Traffic(43, 18.9),
    "randlora": Traffic(22, 23.7, 12.4),
    "road": Traffic(39, 32.6),
    "shira": Traffic(10, 1.0, 6.0),
    "tinylora": Traffic(16, 15.2),
    "unilora": Traffic(25, 17.3),
    "vblora": Traffic(44, 17.2),
    "beft": Traffic(5, 6.0),
    "frod": Traffic(24, 13.7, 6.5),
    "adamss": Traffic(63, 9.2),
    "ln_tuning": Traffic(4, 4.0),
    "prefix_tuning": Traffic(18, 6.7),
    "adaption_prompt": _PROMPT,
    # Not PEFT's. litgpt's LLaMA-Adapter moves what PEFT's does, and v2 scales and shifts what a
    # layer's matrices put out as IA3 does; their kernels are counted on litgpt 0.2.0's own layers.
    "adapter": Traffic(44, 30.0),
    "adapter_v2": Traffic(86, 30.0 + 4 * 9.9),
    # Counted on execution/bottleneck.
    "bottleneck": Traffic(16, 16.4),
}
"""What is of a rank's size is left out: under half a matrix at rank 8 of 512 columns."""

_VARIANTS: Final[dict[tuple[str, str, Any], Traffic]] = {
    ("lora", "use_dora", True): _DORA,
    **{(name, "init_weights", "bat"): Traffic(18, 10.0, 24.1) for name in ("miss", "bone")},
    ("miss", "init_weights", "mini"): Traffic(14, 16.1),
    ("deft", "para", True): Traffic(17, 19.0),
    ("glora", "config_A_B", "vector"): Traffic(20, 11.1, 7.5),
    ("bottleneck", "placement", "houlsby"): Traffic(32, 32.8),
    ("psoft", "use_cayley_neumann", True): Traffic(57, 18.9),
    ("road", "variant", "road_2"): Traffic(35, 32.6),
    ("peanut", "depth", 2): Traffic(43, 15.0, 15.0),
}
"""The same with one option away from its default."""


def traffic(technique: str, peft_config: dict[str, Any]) -> Traffic:
    """What a technique does to each matrix, or layer, that it adapts; none where it adapts none."""
    if peft_config:
        for (name, option, value), found in _VARIANTS.items():
            if name == technique and peft_config.get(option) == value:
                return found
    return _TRAFFIC.get(technique, Traffic(0, 0.0))


def with_traffic(each: AdapterBytes, matrices: Iterable[Matrix], run: Run) -> AdapterBytes:
    """The same with what the technique launches and moves on these matrices."""
    found = traffic(run.settings.technique, run.settings.peft_config)
    number = rows_of_tokens = widths = elements = 0
    for block, rows, columns in matrices:
        layers = block.num_layers
        number += layers
        elements += layers * rows * columns
        if block.stream != "image":
            # A tower's tokens are its images', and not those that this is multiplied by.
            rows_of_tokens += layers
            widths += layers * (rows + columns)
    return each._replace(
        kernels=found.kernels * number,
        moved_tensors=found.widths * rows_of_tokens,
        tensor_per_token=run.compute * widths / 2 / (rows_of_tokens or 1),
        moved_bytes=found.matrices * run.compute * elements,
    )

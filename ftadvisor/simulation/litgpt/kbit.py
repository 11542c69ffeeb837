"""bitsandbytes 0.41 and 0.42 under Lightning Fabric: what its 4-bit product keeps and makes.

Read: bitsandbytes 0.41.1, autograd/_functions.py, MatMul4Bit, and functional.py, dequantize_4bit;
lightning 2.1.0, fabric/plugins/precision/bitsandbytes.py. The weights are quantised from fp16, so
they are unpacked to fp16 and then cast to the input's dtype, both alive for that moment; the input
is kept, on the node itself, until the whole graph goes. Both were looked for because the
published 4-bit rows came out 12 to 22 % too low without them, and read afterwards.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.simulation.model.kbit import four_bit
from ftadvisor.simulation.model.kept_inputs import KeepingLinear4bit
from ftadvisor.simulation.stack import torch


def quantize_linears(model: Any, *, nested: bool, compute: Any, keeps_input: bool) -> None:
    """Replace every Linear, the head's too (BitsandbytesPrecision.module_init_context).

    `keeps_input`: its product keeps what it reads (bitsandbytes up to 0.43.1).
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, own = name.rpartition(".")
            made = four_bit(module, nested, compute, torch.float16, KeepingLinear4bit)
            made.keeps_input = keeps_input
            setattr(model.get_submodule(parent), own, made)

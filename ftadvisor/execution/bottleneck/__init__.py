"""Bottleneck adapters, which PEFT has not: a tuner of our own that PEFT treats as one of its own.

Importing this registers it, so that PEFT loads what was saved:

    import ftadvisor.execution.bottleneck
    model = peft.PeftModel.from_pretrained(base, "out")
"""

from __future__ import annotations

from ftadvisor.execution import stack
from ftadvisor.execution.bottleneck.config import PEFT_TYPE, BottleneckConfig
from ftadvisor.execution.bottleneck.layer import BottleneckLayer
from ftadvisor.execution.bottleneck.model import PREFIX, BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel"]


def _register() -> None:
    # PEFT's register_peft_method takes the names of its PeftType alone (peft 0.21.2
    # utils/peft_types.py); these are the three tables that it writes. Their keys are texts.
    mapping = stack.peft.mapping
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = PREFIX


_register()

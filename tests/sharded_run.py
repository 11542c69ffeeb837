"""torchrun: runs, one after the other, that FSDP2 or ZeRO divides over two processes of a CPU.

torch and DeepSpeed divide there too (gloo); accelerate alone asks for a GPU for FSDP2 (1.15
state.py line 989), and this lets a CPU through. Everything after it is what a GPU's run does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import state
from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import ftadvisor
from ftadvisor.execution import preflight

_made = state.AcceleratorState.__init__


def made(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    """accelerate's own, and then what it does where it has found several GPUs."""
    _made(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is None or self.distributed_type != DistributedType.MULTI_CPU:
        return
    if self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    self.fsdp_plugin = fsdp_plugin
    self.distributed_type = DistributedType.FSDP
    state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def cut(done: Path, place: Path, lost: int) -> None:
    """The directory of a run as it was before it ended; its last checkpoints are `lost`."""
    shutil.copytree(done, place)
    for last in sorted((place / "checkpoints").glob("checkpoint-*"))[2 - lost :]:
        shutil.rmtree(last)
    (place / "report.json").unlink()


def divides_first() -> None:
    """DeepSpeed's engine moves a model that is not divided to the GPU, all of it."""
    engine = sys.modules["deepspeed"].DeepSpeedEngine
    theirs = engine._configure_distributed_model

    def checked(self: Any, model: Any) -> None:
        if self.zero_optimization_partition_weights():
            assert all(hasattr(parameter, "ds_id") for parameter in model.parameters())
        theirs(self, model)

    engine._configure_distributed_model = checked


if __name__ == "__main__":
    if "DS_ACCELERATOR" in os.environ:
        import_module("deepspeed")
        divides_first()
    state.AcceleratorState.__init__ = made
    preflight.check_strategy = lambda settings, cpu: iter(())
    torch.set_num_threads(1)
    for options in json.loads(sys.argv[1]):
        source, lost = options.pop("cut", None), options.pop("lost", 1)
        if source is not None:
            if os.environ["RANK"] == "0":
                cut(Path(source), Path(options["output_dir"]), lost)
            torch.distributed.barrier()
        report = ftadvisor.run(**options)
        assert report.status == "done", report.events
        # Transformers would load the next run's model as this one's engine has it.
        unset_hf_deepspeed_config()
        # The next run reads what the one before has written.
        torch.distributed.barrier()

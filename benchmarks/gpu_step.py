"""One setting of `measure_gpu.py`, in a process of its own: build, train a few steps, report.

Loads its libraries, waits for a row on standard input, prints rows that begin with a record
separator. `python benchmarks/gpu_step.py trl` is how the parent starts it.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers",
              "num_decoder_layers")  # fmt: skip


def main() -> None:
    """Load, wait, run, print."""
    program = sys.argv[1]
    import peft  # noqa: F401
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if program == "trl":
        import trl  # noqa: F401
    print("\x1eready", flush=True)
    row = json.loads(sys.stdin.readline())
    sys.stdout, out = sys.stderr, sys.stdout
    try:
        if row["id"] == "machine":
            from gpu_machine import machine_rows

            found = [{**found, "id": "machine"} for found in machine_rows()]
        else:
            found = rows_of(row)
    except Exception as error:
        where = traceback.format_exc().splitlines()[-6:]
        found = [{"id": row["id"], "error": f"{type(error).__name__}: {error}"[:400], "at": where}]
    for one in found:
        print("\x1e" + json.dumps(one), file=out, flush=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rows_of(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The full depth first, while the allocator is fresh; then the slices."""
    from gpu_training import measured

    config = config_of(setting["model"], tiny=setting["tiny"])
    if setting["tiny"]:
        setting = {**setting, "micro_batch_size": min(setting["micro_batch_size"], 2)}
        setting["max_length"] = min(setting["max_length"], 32)
    found = [published(setting, measured(setting, config), None)]
    for layers in setting.get("slices", ()):
        free()
        part = measured(setting, with_layers(config, layers), trace=layers == 2)
        found.append(published(setting, part, layers))
    return found


def free() -> None:
    """Give back what the last model held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def config_of(model: str, *, tiny: bool) -> dict[str, Any]:
    """The catalogue's config.json; tiny: the same architecture, small enough for a CPU."""
    from ftadvisor.sources.models import model_config

    config = model_config(model)
    if tiny:
        config = with_layers(config, 2)
        for key in ("moe_intermediate_size", "vocab_size", "intermediate_size"):
            if key in config:
                config[key] = min(config[key], 1024)
    return config


def with_layers(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The same model with so many layers (encoder-decoders: in each half)."""
    changed = copy.deepcopy(config)
    for part in (changed, *(v for v in changed.values() if isinstance(v, dict))):
        for key in DEPTH_KEYS:
            if key in part:
                part[key] = layers
        if part.get("layer_types"):
            part["layer_types"] = part["layer_types"][:layers]
    return changed


OWN = ("program", "tiny", "slices", "autocast", "weights", "padded", "packing", "optim")
"""Keys of a setting that a row says in other words."""


def published(setting: dict[str, Any], found: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """A row in the format of data/measurements/."""
    import torch

    program = setting["program"]
    adapter = setting.get("peft_config", {})
    targets = adapter.get("target_modules", setting.get("lora_target_modules"))
    rank = adapter.get("r", adapter.get("init_r", setting.get("lora_r")))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    row = {
        "id": setting["id"] + (f"-layers{layers}" if layers else ""),
        "source": "ftadvisor benchmarks/measure_gpu.py",
        "grade": "A",
        "framework": "TRL" if program == "trl" else "transformers",
        "gpu": gpu,
        "quantization": "none",
        "gradient_accumulation_steps": 1,
        "num_gpus": 1,
        "strategy": "none",
        "attn_implementation": "sdpa",
        **{k: v for k, v in setting.items() if k not in (*OWN, "id")},
        "num_hidden_layers": layers,
        "lora_r": rank,
        "lora_target_modules": ["ALL"] if targets == "all-linear" else targets,
        "precision": {
            "weights": setting.get("weights", "bf16"),
            "compute": "bf16",
            "autocast": setting.get("autocast", True),
        },
        "optimizer": setting.get("optim", "adamw_torch_fused"),
        "sequence_fill": "padded-to-longest" if setting.get("padded") else "full",
        "packing": bool(setting.get("packing")),
        "gradient_checkpointing": setting.get("gradient_checkpointing", program == "trl"),
        "memory_metric": "allocated",
        **found,
        "versions": versions("trl" if program == "trl" else "transformers"),
    }
    return {k: v for k, v in row.items() if v is not None}


def versions(program: str) -> dict[str, str]:
    """Of the libraries that decide the figures."""
    from importlib.metadata import version

    return {name: version(name) for name in {"torch", "transformers", "peft", program}}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        import os

        os.chdir(place)
        main()

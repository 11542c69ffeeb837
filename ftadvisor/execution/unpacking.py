"""A GGUF file's weights as a checkpoint that every library loads."""

from __future__ import annotations

import shutil
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from ftadvisor.errors import ModelUnavailableError, first_line, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.loading import DTYPES
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gguf import gguf_file

BASE = "base"
"""The directory's name beside the adapter that belongs to it."""
LOOK_SECONDS = 0.2


def unpacked(model: str, settings: Settings, device: Device, output_dir: Path) -> str:
    """The model itself; of a GGUF file the directory that its weights were written to.

    Packed weights are neither trained nor saved (transformers 5.23 quantizers/quantizer_gguf.py,
    is_trainable, is_serializable), and an adapter needs a base that others can load too.
    """
    file = gguf_file(model)
    if file is None:
        return model
    folder = output_dir / BASE
    if device.rank == 0 and not folder.exists():
        _unpack(file, getattr(stack.torch, DTYPES[settings.weights_dtype]), folder)
    while not folder.exists():
        time.sleep(LOOK_SECONDS)
    return str(folder)


def _unpack(file: Path, dtype: Any, folder: Path) -> None:
    transformers = stack.transformers
    place = {"gguf_file": file.name, "local_files_only": True}
    try:
        # Without it a machine that has the package `kernels` leaves the weights packed.
        how = transformers.GgufConfig(dequantize=True)
        # Its bar does not ask whether bars are wanted.
        with redirect_stderr(StringIO()):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(file.parent), **place, dtype=dtype, quantization_config=how
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **place)
    except (ImportError, OSError, ValueError) as error:
        what = first_line(error)
        raise ModelUnavailableError(
            f"{quoted(str(file))} cannot be unpacked: {what}.", ["pip install 'ftadvisor[run]'"]
        ) from error
    # Unpacked it is as any other model; with these it would not be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)

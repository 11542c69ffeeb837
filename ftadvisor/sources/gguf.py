"""A GGUF file's header as a config.json: llama.cpp's format of a model in one file.

The format: ggml docs/gguf.md, version 3 (and 2, whose header is the same). Only the header is read:
neither weights nor the `gguf` package are needed for an estimate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ftadvisor.errors import DataFileError, UnsupportedError, quoted

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip
"""gguf_metadata_value_type to struct's letters."""
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Architectures whose keys are known here; Transformers 5.23 loads more of them."""
KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
"""transformers 5.23 integrations/ggml.py, GGUF_CONFIG_MAPPING."""
TOKENS, UNTIED = "tokenizer.ggml.tokens", "output.weight"


def gguf_file(model: str | Path) -> Path | None:
    """The GGUF file of a path: itself, or the only one of a directory without a config.json.

    Raises DataFileError for a directory with several of them.
    """
    path = Path(model).expanduser()
    if path.suffix == SUFFIX:
        return path if path.is_file() else None
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataFileError(
            str(path), None, None, f"holds several GGUF files ({names})", str(found[0])
        )
    return found[0] if found else None


def gguf_config(path: Path) -> dict[str, Any]:
    """What the model's config.json would say.

    Raises DataFileError for a file that is none, UnsupportedError for another architecture.
    """
    try:
        with path.open("rb") as file:
            values, tensors = _header(file)
    except (OSError, struct.error, UnicodeDecodeError, ValueError, MemoryError) as error:
        problem = f"is no GGUF file that can be read ({error})"
        raise DataFileError(str(path), None, None, problem, "a file that is whole") from None
    kind = str(values.get("general.architecture"))
    if kind not in CLASSES:
        raise UnsupportedError.of(
            f"The GGUF architecture {quoted(kind)}", f"of GGUF files {', '.join(CLASSES)} are read",
            ["a directory with the model's config.json and safetensors"],
        )  # fmt: skip
    found = {
        ours: values[f"{kind}.{key}"] for key, ours in KEYS.items() if f"{kind}.{key}" in values
    }
    found.setdefault("vocab_size", values.get(TOKENS))
    return {
        "architectures": [CLASSES[kind]], "model_type": kind, "tie_word_embeddings":
        UNTIED not in tensors, **found,
    }  # fmt: skip


def _header(file: BinaryIO) -> tuple[dict[str, Any], set[str]]:
    """Metadata (of an array its length alone), and the tensors' names."""
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    (version,) = _read(file, "I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}")
    tensors, count = _read(file, "QQ")
    values: dict[str, Any] = {}
    for _ in range(count):
        key = _text(file)
        (kind,) = _read(file, "I")
        values[key] = _value(file, kind)
    return values, set(_names(file, tensors))


def _names(file: BinaryIO, count: int) -> Iterator[str]:
    for _ in range(count):
        yield _text(file)
        (dimensions,) = _read(file, "I")
        # Its shape, type and offset.
        file.seek(8 * dimensions + 12, 1)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(file)
    if kind != ARRAY:
        return _read(file, NUMBERS[kind])[0] if kind in NUMBERS else _unknown(kind)
    inner, length = _read(file, "IQ")
    if inner == STRING:
        for _ in range(length):
            file.seek(_read(file, "Q")[0], 1)
    elif inner in NUMBERS:
        file.seek(struct.calcsize("<" + NUMBERS[inner]) * length, 1)
    else:
        _unknown(inner)
    return length


def _unknown(kind: int) -> Any:
    raise ValueError(f"a value of type {kind}")


def _text(file: BinaryIO) -> str:
    (length,) = _read(file, "Q")
    return file.read(length).decode("utf-8")


def _read(file: BinaryIO, letters: str) -> tuple[Any, ...]:
    form = "<" + letters
    return struct.unpack(form, file.read(struct.calcsize(form)))

"""The header of a GGUF file as a config.json."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ftadvisor.errors import DataFileError, UnsupportedError
from ftadvisor.sources.gguf import gguf_config, gguf_file
from ftadvisor.sources.models import find_model

LLAMA = {
    "block_count": 2, "embedding_length": 64, "feed_forward_length": 128,
    "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 512,
}  # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write(
    path: Path, kind: str = "llama", tensors: tuple[str, ...] = ("token_embd.weight",)
) -> Path:
    """By the format's description: ggml docs/gguf.md."""
    values: list[tuple[str, int, bytes]] = [("general.architecture", 8, text(kind))]
    values += [(f"{kind}.{name}", 4, struct.pack("<I", n)) for name, n in LLAMA.items()]
    words = b"".join(text(f"word{i}") for i in range(600))
    values.append(("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 600) + words))
    values.append(("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, 600) + bytes(2400)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    body = b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in values)
    infos = b"".join(text(n) + struct.pack("<IQQIQ", 2, 64, 600, 0, 0) for n in tensors)
    path.write_bytes(head + body + infos)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_is_a_model(tmp_path: Path, tied: bool):
    more = () if tied else ("output.weight",)
    file = write(tmp_path / "small.gguf", tensors=("token_embd.weight", *more))
    config: dict[str, Any] = gguf_config(file)
    assert config["vocab_size"] == 600
    assert config["num_key_value_heads"] == 2
    assert config["tie_word_embeddings"] is tied
    for name in (file, tmp_path):
        layers = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64) + 64
        assert find_model(str(name)).spec.num_params == layers + (1 if tied else 2) * 600 * 64


def test_what_is_no_model_says_so(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="'rwkv7'"):
        gguf_config(write(tmp_path / "other.gguf", "rwkv7"))
    whole = write(tmp_path / "whole.gguf").read_bytes()
    for content in (b"", b"GGUF", whole[:200], b"PK" + whole[2:]):
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(DataFileError, match="no GGUF file"):
            gguf_config(tmp_path / "broken.gguf")
    with pytest.raises(DataFileError, match="several GGUF files"):
        gguf_file(tmp_path)

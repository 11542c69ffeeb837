"""Tokens of a sample: counted by a tokenizer that is at hand, else taken from characters."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.sources.datasets.sampling import Z_90, Sampled
from ftadvisor.sources.hub import cached_file

CHARACTERS_PER_TOKEN = 4.0
"""English text under a byte-pair vocabulary of 32 to 128 thousand entries; code and other languages
have fewer. OpenAI's tokenizer help page states 4; Alpaca has about 4.1 with Llama's tokenizer."""

CHARACTERS_ERROR = 0.3
"""Half-width of the interval on a token count from characters: 3 to 5.5 characters a token."""

OTHER_CHARACTERS_PER_TOKEN = 2.0
"""Letters outside the Latin script. DeepSeek's documents state 0.6 tokens a Chinese character (1.7
characters a token; api-docs.deepseek.com/quick_start/token_usage); korchasa's table of 11 models'
tokenizers has 1.6 characters a token for Korean, 4.3 for English, and for the same text in Russian
1.4 and in Ukrainian 1.7 times the tokens of English (both read 2026-11)."""

OTHER_ERROR = 0.5
"""Half-width of that count's interval: 1.3 to 4 characters a token, Korean to Russian."""

COUNTED_CHARACTERS = 2_000_000
"""Of the sample; a tokenizer takes about a second for them."""
SCRIPT_CHARACTERS = 1000
"""Of each row's start, in which scripts are told apart."""

TOKENIZER_FILE = "tokenizer.json"


class Counted(NamedTuple):
    """Token lengths of a sample."""

    lengths: list[float]
    """Sorted."""
    characters_per_token: float
    error: float
    """Relative half-width of the 90 % interval of a token count over all rows."""
    tokenizer: str | None


def count_tokens(
    sample: list[Sampled], num_examples: int, tokenizer: str | Path | None, non_latin: float
) -> Counted:
    """Tokens of each sampled row.

    A tokenizer that cannot be found on this machine, or a missing `tokenizers` library, leaves the
    estimate from characters; nothing is downloaded.
    """
    found = _tokenizer(tokenizer) if tokenizer is not None else None
    if found is not None:
        counted = _counted(sample, num_examples, found, str(tokenizer))
        if counted is not None:
            return counted
    ratio, error = characters_per_token(non_latin)
    return Counted(sorted(row.size / ratio for row in sample), ratio, error, None)


def characters_per_token(non_latin: float) -> tuple[float, float]:
    """Characters per token for a share of letters outside the Latin script, and the relative
    half-width of a token count that is made with it."""
    latin_tokens = (1 - non_latin) / CHARACTERS_PER_TOKEN
    other_tokens = non_latin / OTHER_CHARACTERS_PER_TOKEN
    tokens = latin_tokens + other_tokens
    return 1 / tokens, (CHARACTERS_ERROR * latin_tokens + OTHER_ERROR * other_tokens) / tokens


def non_latin_share(sample: list[Sampled]) -> float:
    """Share of letters outside the Latin script."""
    letters = other = 0
    for row in sample:
        text = row.text[:SCRIPT_CHARACTERS]
        found = sum(map(str.isalpha, text))
        letters += found
        if not text.isascii():
            other += sum(1 for char in text if char.isalpha() and not _is_latin(char))
    return other / letters if letters else 0.0


def _is_latin(char: str) -> bool:
    # Blocks of the Unicode standard: Latin-1 to Extended-B, IPA, Extended Additional, C, D and E,
    # ligatures, full width.
    return (
        char < "\u02b0"
        or "\u1e00" <= char < "\u1f00"
        or "\u2c60" <= char < "\u2c80"
        or "\ua720" <= char < "\ua800"
        or "\uab30" <= char < "\uab70"
        or "\ufb00" <= char < "\ufb07"
        or "\uff21" <= char <= "\uff5a"
    )


def _tokenizer(name: str | Path) -> Any:
    """A tokenizers.Tokenizer; None without its library or its file."""
    path = Path(os.path.expanduser(name))
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        file = cached_file(str(name), TOKENIZER_FILE)
    if file is None:
        return None
    try:
        # Its threads and a later fork do not go together.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
    except Exception:  # ImportError, or what the Rust library raises: a bare Exception
        return None


def _counted(sample: list[Sampled], num_examples: int, tokenizer: Any, name: str) -> Counted | None:
    kept = sum(len(row.text) for row in sample)
    number = max(1, int(len(sample) * min(1.0, COUNTED_CHARACTERS / max(1, kept))))
    rows = [row for row in sample[:number] if row.text and row.size]
    texts = [row.text.encode("utf-8", "replace").decode() for row in rows]
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    # Of a long text only the start was kept; a pair's sequence is shorter than its text.
    tokens = [
        len(code.ids) * row.size / len(row.text) for code, row in zip(encoded, rows, strict=True)
    ]
    if not sum(tokens):
        return None
    sizes = [row.size for row in rows]
    ratio = sum(sizes) / sum(tokens)
    # The variance of a ratio estimate, Cochran 1977, Sampling techniques, section 6.4.
    count = len(rows)
    rest = [t - size / ratio for t, size in zip(tokens, sizes, strict=True)]
    unseen = max(0.0, 1 - count / num_examples)
    error = Z_90 * math.sqrt(unseen * sum(r * r for r in rest)) / sum(tokens)
    return Counted(sorted(tokens), ratio, error, name)

"""A config.json of the Hugging Face hub: from its local cache, else over the network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError, ModelUnavailableError, quoted

TIMEOUT_SECONDS = 3.0
"""No answer in this time means no network: a question is worth no longer wait."""
LARGEST_CONFIG_BYTES = 10_000_000


def hub_config(model_id: str) -> dict[str, Any]:
    """The config.json of a hub id.

    Looks in the local cache first; HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN (or the token that
    `hf auth login` stored), HF_HUB_CACHE and HF_HOME are honoured.
    Raises ModelUnavailableError for a gated or missing id and without a network.
    """
    cached = cached_file(model_id, "config.json")
    if cached is not None:
        return read_config(cached)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise _unavailable(model_id, "HF_HUB_OFFLINE is set and it is not in the local cache")
    return parse_config(_fetched(model_id), f"config.json of {model_id}")


def cached_file(model_id: str, name: str) -> Path | None:
    """The newest snapshot's file in the hub's own cache layout."""
    cache = os.environ.get("HF_HUB_CACHE")
    root = Path(os.path.expanduser(cache)) if cache else _home() / "hub"
    folder = root / ("models--" + model_id.replace("/", "--")) / "snapshots"
    try:
        found = sorted(folder.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    except OSError:
        return None
    return found[-1] if found else None


def read_config(path: Path) -> dict[str, Any]:
    """A config.json on this machine. Raises DataFileError for what is none."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_CONFIG_BYTES)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise DataFileError(str(path), None, None, problem, "a config.json") from None
    return parse_config(content, str(path))


def parse_config(content: bytes, file: str) -> dict[str, Any]:
    """A config.json's object. Raises DataFileError for anything else."""
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataFileError(file, None, None, f"is not JSON: {error}", "a config.json") from None
    if not isinstance(found, dict):
        raise DataFileError(file, None, None, "is not an object", '{"model_type": ...}')
    config: dict[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
    return config


def _home() -> Path:
    """Where the hub's own library keeps its cache and its token."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("HF_HOME") or f"{base}/huggingface"))


def _token() -> str | None:
    stored = Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token")
    try:
        return os.environ.get("HF_TOKEN") or stored.read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _fetched(model_id: str) -> bytes:
    # urllib costs a start-up that only a model outside the catalogue should pay.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        request = Request(f"{endpoint}/{quote(model_id)}/resolve/main/config.json")
        if token := _token():
            # Not to where the hub may send us on.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read(LARGEST_CONFIG_BYTES)
    except HTTPError as error:
        error.close()
        raise _refused(model_id, error.code) from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _unavailable(model_id, f"the hub cannot be reached ({reason})") from None


def _refused(model_id: str, status: int) -> ModelUnavailableError:
    if status in (401, 403):
        return ModelUnavailableError(
            f"{quoted(model_id)} is gated, private or does not exist (HTTP {status}).",
            [
                f"accept its terms at https://huggingface.co/{model_id}, then HF_TOKEN=hf_...",
                "--model PATH/config.json",
            ],
        )
    if status == 404:
        return ModelUnavailableError(
            f"The hub has no config.json of {quoted(model_id)} (HTTP 404).",
            ["ftadvisor list models", "--model PATH/config.json"],
        )
    return _unavailable(model_id, f"the hub answered HTTP {status}")


def _unavailable(model_id: str, why: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"{quoted(model_id)} is not in the catalogue, and {why}.",
        ["ftadvisor list models", "--model PATH/config.json"],
    )

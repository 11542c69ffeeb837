"""What the catalogues hold, as flat rows with stable keys."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from datetime import date
from typing import Any, cast

from ftadvisor.errors import UnknownNameError
from ftadvisor.sources.gpus import all_gpus, fitting_ids, match_gpu
from ftadvisor.sources.models import catalogue_row, catalogue_rows, find_model
from ftadvisor.sources.models import model_config as model_config
from ftadvisor.sources.optimizers import objective_rows, optimizer_rows
from ftadvisor.sources.prices import all_prices, prices_of
from ftadvisor.sources.techniques import all_techniques, find_technique
from ftadvisor.sources.trainers import find_trainer, trainer_rows


def list_models(pattern: str | None = None) -> list[dict[str, Any]]:
    """Models of the catalogue whose id or alias holds `pattern`, as rows.

    Here as in the other lists, case and punctuation of the pattern do not count.
    """
    row = catalogue_row(pattern) if pattern else None
    also = [row["id"]] if row else []
    return _matching(catalogue_rows(), pattern, "id", "aliases", "model_type", also=also)


def list_gpus(pattern: str | None = None) -> list[dict[str, Any]]:
    """GPUs of the catalogue, as rows; bytes, bytes/s, FLOP/s and watts."""
    keys = (
        "id", "name", "memory_bytes", "usable_bytes", "usable_assumed",
        "memory_bandwidth_bytes_per_second", "flops_per_second", "compute_capability",
        "link", "link_bytes_per_second", "power_watts",
    )  # fmt: skip
    rows = [{key: getattr(gpu, key) for key in keys} for gpu in all_gpus()]
    return _matching(rows, pattern, "id", "name", also=fitting_ids(pattern) if pattern else ())


def list_techniques(pattern: str | None = None) -> list[dict[str, Any]]:
    """Techniques, as rows."""
    keys = ("id", "name", "family", "sentence", "settings", "source")
    rows = [{key: getattr(t, key) for key in keys} for t in all_techniques()]
    also: list[str] = []
    with suppress(UnknownNameError):
        also += [find_technique(pattern).id] if pattern else []
    return _matching(rows, pattern, "id", "name", "sentence", also=also)


def list_objectives(pattern: str | None = None) -> list[dict[str, Any]]:
    """What a training can be for, as rows."""
    return _matching(objective_rows(), pattern, "id", "name", "sentence")


def list_optimizers(pattern: str | None = None) -> list[dict[str, Any]]:
    """Optimizers, as rows; `also` are other names that mean them."""
    return _matching(optimizer_rows().values(), pattern, "id", "sentence", "also")


def list_trainers(pattern: str | None = None) -> list[dict[str, Any]]:
    """Training programs whose loop is known, as rows."""
    rows = [
        {
            "id": name,
            "framework": row["framework"],
            "versions": row["versions"],
            "measured": find_trainer(name).measured,
        }
        for name, row in trainer_rows().items()
    ]
    return _matching(rows, pattern, "id", "framework")


def list_prices(pattern: str | None = None) -> list[dict[str, Any]]:
    """Dated prices of a GPU-hour [USD], as rows, cheapest first."""
    keys = (
        "gpu", "provider", "usd_per_gpu_hour", "spot_usd_per_gpu_hour", "as_of", "stale", "source",
    )  # fmt: skip
    offers = sorted(all_prices(date.today()), key=lambda price: price.usd_per_gpu_hour)
    rows = [{key: getattr(price, key) for key in keys} for price in offers]
    return _matching(rows, pattern, "gpu", "provider")


def show_model(name: str) -> dict[str, Any]:
    """Anatomy and provenance of one model. Raises as `estimate` does for unknown names."""
    found = find_model(name)
    spec = found.spec
    first = next((b for b in spec.blocks if b.stream == "text"), spec.blocks[-1])
    shown: dict[str, Any] = {
        "id": spec.id,
        "model_type": spec.model_type,
        "family": spec.family,
        "num_params": spec.num_params,
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "num_attention_heads": first.attention.num_heads,
        "num_key_value_heads": first.attention.num_kv_heads,
        "head_dim": first.attention.head_dim,
        "intermediate_size": first.mlp.intermediate_size,
        "num_experts": first.mlp.num_experts,
        "max_position_embeddings": spec.max_position_embeddings,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "linears": sorted({linear.name for b in spec.blocks for linear in b.linears}),
        "assumptions": list(found.assumptions),
    }
    facts = found.row or {}
    known = (
        "aliases", "variants", "quantized", "license", "gated", "modality",
        "params_published", "params_published_source", "params_differ", "source", "note",
    )  # fmt: skip
    return shown | {key: facts[key] for key in known if facts.get(key) is not None}


def show_gpu(name: str) -> dict[str, Any]:
    """One GPU's facts and its prices."""
    match = match_gpu(name)
    row = next(row for row in list_gpus() if row["id"] == match.gpu.id)
    prices = [
        {
            "provider": price.provider,
            "usd_per_gpu_hour": price.usd_per_gpu_hour,
            "spot_usd_per_gpu_hour": price.spot_usd_per_gpu_hour,
            "as_of": price.as_of,
        }
        for price in prices_of(match.gpu.id, date.today())
    ]
    said = [match.assumption] if match.assumption else []
    return row | {"prices": prices, "assumptions": said}


def _matching(
    rows: Iterable[dict[str, Any]], pattern: str | None, *keys: str, also: Container[str] = ()
) -> list[dict[str, Any]]:
    """The rows that hold the pattern where case and punctuation do not count, and those `also`."""
    if not pattern:
        return list(rows)
    wanted = _bare(pattern)
    return [
        row
        for row in rows
        if row.get("id", "") in also
        or (wanted and any(wanted in text for text in _texts(row, keys)))
    ]


def _texts(row: dict[str, Any], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value: Any = row.get(key) or ""
        yield from map(_bare, cast("list[str]", value) if isinstance(value, list) else [str(value)])


def _bare(text: str) -> str:
    # A point and a slash tell names apart: llama-3.1, owner/model.
    return "".join(char for char in text.casefold() if char.isalnum() or char in "./")

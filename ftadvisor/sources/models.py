"""A model by name, by config.json, by GGUF file or from the hub, as its anatomy."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftadvisor.errors import (
    DataFileError,
    ModelUnavailableError,
    UnknownNameError,
    UnsupportedError,
    quoted,
)
from ftadvisor.schema.model import ModelSpec
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.architectures.config import refused_family
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import (
    NAMES,
    NULL,
    OBJECT,
    SWITCH,
    TEXT,
    Kind,
    any_of,
    check_row,
    check_value,
    one_of,
    rows_by_id,
    table,
    whole,
)
from ftadvisor.sources.gguf import gguf_config, gguf_file
from ftadvisor.sources.hub import hub_config, read_config

LIST = "ftadvisor list models"
_FILE = "models.json"
_FILE_SUFFIXES = (".json", ".safetensors", ".bin", ".gguf")
_NEEDED: dict[str, Kind] = {
    "id": TEXT, "aliases": NAMES, "license": any_of(TEXT, NULL), "gated": SWITCH,
    "modality": one_of(("text", "text+image", "image")), "context": any_of(whole(1), NULL),
    "source": TEXT, "config": OBJECT,
}  # fmt: skip
_OPTIONAL: dict[str, Kind] = {
    "variants": NAMES, "quantized": table(TEXT, "texts"), "params_published": whole(1),
    "params_published_source": TEXT, "params_differ": TEXT, "note": TEXT,
}  # fmt: skip
_FIELDS = _NEEDED.keys() | _OPTIONAL.keys()
_NAMED = {name: (_NEEDED | _OPTIONAL)[name] for name in ("aliases", "variants", "quantized")}
"""What a look-up reads of every row, whichever it is for."""


class FoundModel(NamedTuple):
    """A model, what was assumed to describe it, and its row in the catalogue if it has one."""

    spec: ModelSpec
    assumptions: tuple[str, ...]
    row: dict[str, Any] | None


@cache
def find_model(name: str) -> FoundModel:
    """The model of a catalogue name, a config.json or its directory, or a hub id.

    Raises UnknownNameError with near misses, DataFileError for a broken file, UnsupportedError for
    a kind of model that is not described, ModelUnavailableError when the hub does not give it.
    """
    row = catalogue_row(name)
    if row is not None:
        spec, said = read_model(row["config"], row["id"])
        return FoundModel(spec, (*said, *_read_as(name, row)), row)
    config, id_ = _config_outside(name)
    spec, said = read_model(config, id_)
    return FoundModel(spec, (*said, *_quantized(config, id_)), None)


def model_config(name: str) -> dict[str, Any]:
    """The config.json of a model: the catalogue's keys, a file's or the hub's."""
    row = catalogue_row(name)
    if row is None:
        return _config_outside(name)[0]
    return {"_name_or_path": row["id"], **row["config"]}


CODE = "_remote_code"
"""The key under which `with_code` leaves where a model's own code lies."""


def with_code(name: str) -> dict[str, Any]:
    """The config.json of a model whose user trusts the code that it names (auto_map).

    Its directory and a digest of its code are added; None, where it is not on this machine.
    """
    config = model_config(name)
    named = config.get("auto_map")
    if not isinstance(named, dict):
        return config
    path = Path(name)
    folder = path.parent if path.is_file() else path
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    elsewhere = "--" in str(cast("object", named))  # repository--module.Class
    if not files or elsewhere:
        return {**config, CODE: None}
    # OpenSSL costs a start-up that only remote code should pay.
    from hashlib import sha256

    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {**config, CODE: {"folder": str(folder.resolve()), "digest": digest}}


def catalogue_row(name: str) -> dict[str, Any] | None:
    """The catalogue's row of an id, an alias or a variant, in any spelling; None: not in it."""
    row = _exact().get(name) or _loose().get(name) or _loose().get(_bare(name))
    return _checked(row) if row is not None else None


def model_names() -> list[str]:
    """All ids, aliases and variants."""
    parts = ("aliases", "variants", "quantized")
    return [n for row in _rows() for n in (row["id"], *(n for p in parts for n in row.get(p, ())))]


def catalogue_models() -> tuple[FoundModel, ...]:
    """All models of the catalogue, in the file's order."""
    return tuple(find_model(row["id"]) for row in _rows())


def catalogue_rows() -> list[dict[str, Any]]:
    """One flat row per model for `ftadvisor list models`."""
    keys = ("id", "aliases", "license", "gated", "modality", "context")
    return [
        {key: row[key] for key in keys}
        | {
            "model_type": spec.model_type,
            "num_params": spec.num_params,
        }
        for row in map(_checked, _rows())
        for spec in (find_model(row["id"]).spec,)
    ]


def _read_as(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """What sets a variant apart from the model whose row describes it."""
    for variant, quantization in row.get("quantized", {}).items():
        if _bare(name) in (_bare(variant), _bare(variant.partition("/")[2])):
            return (
                f"{variant} is {row['id']} with {quantization} weights, which count as such "
                f"with --quantization {quantization} only",
            )
    return ()


def _quantized(config: dict[str, Any], id: str) -> tuple[str, ...]:
    """A config.json whose checkpoint is quantised says so; what is estimated, the settings say."""
    how = config.get("quantization_config")
    if not isinstance(how, dict):
        return ()
    method = cast("dict[str, Any]", how).get("quant_method", "in a way that it does not name")
    return (
        f"config.json of {id} says that the checkpoint is quantised ({quoted(method)}); the "
        "weights count as --quantization says",
    )


@cache
def _rows() -> list[dict[str, Any]]:
    content = read_json(_FILE)
    models: Any = cast("dict[str, Any]", content).get("models") if type(content) is dict else None
    rows = rows_by_id(_FILE, models, "models")
    for id_, row in rows.items():
        if not _NEEDED.keys() <= row.keys() <= _FIELDS:
            _checked(row)
        for name, kind in _NAMED.items():
            if name in row:
                check_value(_FILE, id_, name, row[name], kind)
    return list(rows.values())


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """The row, once all its fields are of their kinds."""
    return check_row(_FILE, row.get("id"), row, _NEEDED, _OPTIONAL)


def check_models() -> None:
    """Raise DataFileError at the first row of the catalogue that cannot be right."""
    taken: dict[str, str] = {}
    for row in _rows():
        _checked(row)
        for name in {row["id"], *row["aliases"], *row.get("variants", ())}:
            if taken.setdefault(name, row["id"]) != row["id"]:
                problem = f"{quoted(name)} names {taken[name]} too"
                raise DataFileError(_FILE, row["id"], "aliases", problem, "another name")
        read_model(row["config"], row["id"])


@cache
def _exact() -> dict[str, dict[str, Any]]:
    """Rows by id, alias and variant."""
    exact: dict[str, dict[str, Any]] = {}
    for row in _rows():
        exact[row["id"]] = row
        for name in (*row["aliases"], *row.get("variants", ()), *row.get("quantized", ())):
            exact.setdefault(name, row)
    return exact


@cache
def _loose() -> dict[str, dict[str, Any]]:
    """Rows by looser spellings, and without the owner; ids win. Only other names need it."""
    loose: dict[str, dict[str, Any]] = {}
    for row in _rows():
        loose.setdefault(_bare(row["id"]), row)
        loose.setdefault(_bare(row["id"].partition("/")[2]), row)
    for name, row in _exact().items():
        loose.setdefault(_bare(name), row)
        loose.setdefault(_bare(name.partition("/")[2] or name), row)
    return loose | _exact()


_SAYS_NOTHING = re.compile(r"[^\w./]|_")


def _bare(name: str) -> str:
    """Lower case, no punctuation but what parts numbers; `Meta-` and `-hf` say nothing."""
    text = name.strip().lower().replace("_", "-").replace(" ", "-")
    text = text.removesuffix("-hf").replace("meta-llama-", "llama-")
    return _SAYS_NOTHING.sub("", text)


def _config_outside(name: str) -> tuple[dict[str, Any], str]:
    """The config.json of a path or a hub id, and what to call the model."""
    path = Path(name)
    try:
        packed = gguf_file(path) if name else None
        if packed is not None:
            return gguf_config(packed), packed.stem
        if name and path.is_dir():
            path = path / "config.json"
        is_file = path.is_file()
    except (OSError, ValueError):
        raise UnknownNameError("model", name, model_names(), see=LIST) from None
    if is_file:
        folder = path.resolve().parent.name if path.name == "config.json" else path.stem
        return read_config(path), folder
    if path.name == "config.json" and path.parent.is_dir():
        raise DataFileError(str(path), None, None, "does not exist", "a directory that has one")
    if name.startswith((".", "/", "~")) or path.suffix in _FILE_SUFFIXES:
        raise DataFileError(name, None, None, "is not a config.json that exists", "its path")
    family = refused_family(name)
    if name.count("/") == 1 and all(name.split("/")) and " " not in name:
        try:
            config = hub_config(name)
        except ModelUnavailableError:
            if family is None:
                raise
            raise UnsupportedError.of(quoted(name), family, [LIST]) from None
        if "model_type" not in config:
            if family is not None:
                raise UnsupportedError.of(quoted(name), family, [LIST])
            raise UnsupportedError.of(quoted(name), "its config.json has no model_type", ())
        return config, name
    if family is not None:
        raise UnsupportedError.of(quoted(name), family, [LIST])
    raise UnknownNameError("model", name, model_names(), see=LIST)

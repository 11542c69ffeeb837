"""One config.json, read key by key: Transformers' names and defaults, every value checked."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, cast

from ftadvisor.errors import DataFileError, UnsupportedError, near_misses, quoted
from ftadvisor.schema.model import Traits
from ftadvisor.sources.architectures.row_checks import ACTIVATIONS, FILE, check_architecture
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import OBJECT, table

_LARGEST: Final = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_experts": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
}
_LARGEST_WIDTH: Final = 10_000_000
"""Far above any model; a larger number in a config is a mistake or an attack."""

_SIZES: Final = frozenset(
    ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
)

_MISSING: Final = object()


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """The rows of data/architectures.json by model type, of which `row_of` checks one."""
    content = read_json(FILE)
    parts = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    rows: Any = parts.get("architectures")
    if not table(OBJECT, "").holds(rows) or not rows:
        write = "an object of rows by model type"
        raise DataFileError(FILE, None, "architectures", "is no object of objects", write)
    return rows


@cache
def row_of(model_type: str) -> dict[str, Any]:
    """One row of data/architectures.json. Raises DataFileError where it cannot be right."""
    rows = architectures()
    row = rows[model_type]
    check_architecture(model_type, row, [name for name, r in rows.items() if "refused" not in r])
    return row


def check_architectures() -> None:
    """Raise DataFileError at the first row of the file that cannot be right."""
    for model_type in architectures():
        row_of(model_type)


@cache
def traits_of(model_type: str) -> Traits:
    """How a type's modelling code writes a layer, before the configuration changes anything."""
    found: dict[str, Any] = row_of(model_type).get("traits", {})
    # Models are looked up by what they are made of.
    values: dict[str, Any] = {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        for name, value in found.items()
    }
    return Traits(**values)


def refused_family(name: str) -> str | None:
    """Why models of that name are not estimated, where it begins as a refused type's do."""
    spelt = _hyphens(name.rpartition("/")[2])
    for model_type, row in architectures().items():
        names = [model_type, *row_of(model_type).get("names", ())] if "refused" in row else ()
        if any(f"{spelt}-".startswith(f"{_hyphens(start)}-") for start in names):
            return row["refused"]
    return None


def _hyphens(name: str) -> str:
    return "-".join(name.casefold().replace("_", " ").replace("-", " ").replace(".", " ").split())


def row_type(config: object, file: str, layout: str | None = None) -> str:
    """The row of data/architectures.json that describes a configuration.

    `layout`: what the row must be, where only one kind makes sense (the text of an image-text
    model). Raises DataFileError for what is no configuration, UnsupportedError for a model type
    that is not described.
    """
    if not isinstance(config, dict):
        raise DataFileError(file, None, None, f"is {quoted(config)}, not a JSON object")
    values = cast("dict[str, Any]", config)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        problem = "is missing" if model_type is None else f"is {quoted(model_type)}, not a name"
        raise DataFileError(file, None, "model_type", problem, '"llama", "qwen2", ...')
    rows = architectures()
    row = rows.get(model_type)
    if row is None:
        raise UnsupportedError.of(
            f"The model type {quoted(model_type)}",
            "data/architectures.json does not describe it",
            [
                *near_misses(model_type, [name for name, r in rows.items() if "refused" not in r]),
                "ftadvisor simulate",
            ],
        )
    row = row_of(model_type)
    if "refused" in row:
        raise UnsupportedError.of(
            f"The model type {quoted(model_type)}", row["refused"], row.get("nearest", [])
        )
    for key, name in row.get("variants", {}).items():
        if key in values:
            model_type = name
    if layout is None:
        if row["layout"] == "vision" and not row.get("alone"):
            reason = "it is a vision tower; the model around it can be estimated"
            raise UnsupportedError.of(f"The model type {quoted(model_type)}", reason)
    elif row["layout"] != layout:
        raise DataFileError(file, None, "model_type", f"is {quoted(model_type)}, no {layout}")
    return model_type


class Assumed:
    """What was assumed while a configuration was read."""

    __slots__ = ("defaults", "sentences")

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.defaults: dict[str, object] = {}
        """Sizes that the file leaves out, with what Transformers takes instead."""

    def said(self) -> tuple[str, ...]:
        """Everything, as sentences."""
        if not self.defaults:
            return tuple(self.sentences)
        listed = ", ".join(f"{key} {value}" for key, value in self.defaults.items())
        return (f"{listed}: Transformers' defaults, config.json does not say", *self.sentences)


class Config:
    """A config.json together with the row of its model type.

    Keys are asked for by Transformers' common names; the row says what the type calls them
    (`n_embd`) and what Transformers assumes where the file is silent.

    Args:
        values: the JSON object.
        model_type: a row of data/architectures.json.
        file: how error messages call the file.
        assumed: collects what was assumed.
    """

    __slots__ = ("_keys", "assumed", "file", "model_type", "row", "values")

    def __init__(
        self, values: dict[str, Any], model_type: str, file: str, assumed: Assumed
    ) -> None:
        self.values = values
        self.model_type = model_type
        self.row = row_of(model_type)
        self.file = file
        self.assumed = assumed
        self._keys: dict[str, str] = self.row.get("keys", {})
        for key in self.row.get("needs", ()):
            if key not in values:
                raise self.fail(key, "is missing", f"a config of {self.row['source']}")

    def key(self, name: str) -> str:
        """What this model type calls a common key."""
        return self._keys.get(name, name)

    def get(self, name: str, default: Any = None) -> Any:
        """A value as it stands in the file, else Transformers' default, else `default`."""
        key = self._keys.get(name, name)
        if "." in key:
            section, _, key_in = key.partition(".")
            value = self.section(section).get(key_in, _MISSING)
        else:
            value = self.values.get(key, _MISSING)
        if (value is _MISSING or value is None) and key != name and not self.row.get("own_keys"):
            value = self.values.get(name, value)
        if value is _MISSING:
            value = self.row["defaults"].get(key, _MISSING)
            if name in _SIZES:
                self.assumed.defaults[key] = value
        return default if value is _MISSING else value

    def assume(self, sentence: str) -> None:
        """Say that something was assumed."""
        if sentence not in self.assumed.sentences:
            self.assumed.sentences.append(sentence)

    def fail(self, name: str, problem: str, write: str = "") -> DataFileError:
        """The error for a key whose value cannot be right."""
        return DataFileError(self.file, None, self.key(name), problem, write)

    def optional(self, name: str, least: int = 1) -> int | None:
        """A whole number, or None where the file (or Transformers' default) says null."""
        value = self.get(name)
        if value is None:
            return None
        # json reads 1e3 as a float; bool is an int to Python.
        if type(value) is not int:
            if isinstance(value, bool) or not isinstance(value, float) or not value.is_integer():
                raise self.fail(name, f"is {quoted(value)}, not a whole number")
            value = int(value)
        largest = _LARGEST.get(name, _LARGEST_WIDTH)
        if not least <= value <= largest:
            problem = f"is {quoted(value)}, out of range"
            raise self.fail(name, problem, f"a number from {least} to {largest}")
        return value

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number that must be there unless `default` says what stands for null."""
        value = self.optional(name, least)
        if value is None:
            value = default
        if value is None:
            raise self.fail(name, "is missing", "a whole number")
        return value

    def flag(self, what: bool | str) -> bool:
        """A condition of the row: a constant, `key`, `not key` or `key=value`."""
        if isinstance(what, bool):
            return what
        if what.startswith("not "):
            return not self.flag(what[4:])
        name, _, wanted = what.partition("=")
        if wanted:
            return str(self.get(name)) == wanted
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        # Where Transformers has a switch, a number is one by mistake.
        most = 1 if isinstance(self.row["defaults"].get(self.key(name)), bool) else _LARGEST_WIDTH
        if type(value) is int and 0 <= value <= most:
            return bool(value)
        raise self.fail(name, f"is {quoted(value)}", "true or false")

    def share(self, name: str, default: float = 0.0) -> float:
        """A number from 0 to 1: a dropout probability, the rotated part of a head."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise self.fail(name, f"is {quoted(value)}", "a number from 0 to 1")
        return float(value)

    def number(self, name: str) -> float:
        """A number above 0, such as an expansion ratio."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1000:
            raise self.fail(name, f"is {quoted(value)}", "a number above 0, at most 1000")
        return float(value)

    def text(self, name: str, default: str = "") -> str:
        """A word, such as the activation's name."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, f"is {quoted(value)}, not a text")
        return value

    def activation(self, name: str, default: str = "") -> str:
        """The name of an activation that Transformers has, or the row itself."""
        value = self.text(name, default)
        if value != default:
            self.known_activation(name, value)
        return value

    def known_activation(self, name: str, value: str) -> None:
        """Raise DataFileError where `value`, which the key names, is no activation."""
        if value not in ACTIVATIONS:
            near = near_misses(value, ACTIVATIONS) or ["silu", "gelu", "relu"]
            raise self.fail(name, f"names no activation: {quoted(value)}", " or ".join(near))

    def listed(self, name: str) -> list[Any] | None:
        """A list, or None where there is none."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise self.fail(name, f"is {quoted(value)}, not a list")
        return cast("list[Any] | None", value)

    def section(self, name: str) -> dict[str, Any]:
        """A nested object, empty where there is none."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(name, f"is {quoted(value)}, not an object")
        return cast("dict[str, Any]", value)

    def ratio(self, whole: str, parts: str) -> int:
        """`whole` / `parts`, both of which the file states; the division must leave nothing."""
        a, b = self.integer(whole), self.integer(parts)
        if a % b:
            problem = f"is {a}, which {self.key(parts)} ({b}) does not divide"
            raise self.fail(whole, problem)
        return a // b

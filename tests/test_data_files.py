"""A typo in any file of data/: file, row, field and what to write, never a fault of ftadvisor."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ftadvisor.cli import main
from ftadvisor.errors import DataFileError
from ftadvisor.sources import data_files
from ftadvisor.sources.architectures.row_checks import all_fields
from ftadvisor.sources.catalogue_checks import CHECKS, check_data
from ftadvisor.sources.data_files import read_json

GONE: Any = object()
MUTATIONS = 12
"""Random typos in each file."""


def clear_caches() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("ftadvisor.sources"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], None]]:
    """Put another content in the place of one file's."""

    def put(file: str, content: Any) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("ftadvisor.sources") and hasattr(module, "read_json"):
                monkeypatch.setattr(
                    module, "read_json", lambda n, c=content: c if n == file else read_json(n)
                )
        clear_caches()

    yield put
    monkeypatch.undo()
    clear_caches()


def changed(file: str, path: tuple[str | int, ...], value: Any) -> Any:
    """A file's content with the value at `path` replaced; `GONE`: left out."""
    content = copy.deepcopy(read_json(file))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_every_row_of_every_catalogue_is_right() -> None:
    assert {p.name for p in data_files.data_dir().glob("*.json")} <= CHECKS.keys()
    check_data()


def test_every_explained_field_of_an_architecture_is_checked() -> None:
    assert read_json("architectures.json")["fields"].keys() <= all_fields()


CASES: list[tuple[str, tuple[str | int, ...], Any, str]] = [
    ("techniques.json", (3, "id"), GONE, "'number 4', field 'id': is missing"),
    ("techniques.json", (3, "famly"), "lora", "row 'lora', field 'famly': is no known field"),
    ("techniques.json", (3, "family"), "zzz", "field 'family': is 'zzz'. Write: full or lora"),
    ("techniques.json", (3, "trains_base"), "twelve", "Write: true or false"),
    ("techniques.json", (3, "settings", "lora_r"), "eight", "field 'settings.lora_r'"),
    ("techniques.json", (3, "settings", "rank"), 8, "field 'settings.rank': is no known field"),
    ("target_modules.json", ("tables", "lora", "llama"), "q_proj", "row 'lora', field 'llama'"),
    ("target_modules.json", ("tables", "c3a", "like"), "loar", "row 'c3a', field 'like'"),
    ("target_modules.json", ("tables",), GONE, "field 'tables'"),
    ("trainers.json", (0, "id"), GONE, "field 'id': is missing"),
    ("trainers.json", (0, "framework"), GONE, "field 'framework': is missing. Write: a text"),
    ("trainers.json", (0, "versions"), 2024, "field 'versions': is 2024. Write: a text"),
    ("trainers.json", (0, "facts"), GONE, "field 'facts': is missing"),
    ("trainers.json", (0, "facts", "tf23"), {"value": True, "source": "x"}, "Write: tf32"),
    ("trainers.json", (0, "facts", "logits_upcast", "value"), "no", "Write: true or false"),
    ("trainers.json", (0, "facts", "logits_upcast", "source"), GONE, "a text"),
    ("trainers.json", (0, "defaults", "optimizer"), "sgd", "field 'defaults.optimizer'"),
    ("trainers.json", (0, "defaults", "max_length"), "long", "field 'defaults.max_length'"),
    ("trainers.json", (0, "published_as"), "deepspeed", "Write: a list of objects"),
    ("trainers.json", (0, "published_as", 0, "framwork"), "x", "Write: framework"),
    ("workloads.json", (0, "id"), "alpacca", "no row has 'alpaca'"),
    ("workloads.json", (0, "mean_tokens"), -128, "field 'mean_tokens': is -128. Write: a number"),
    ("workloads.json", (0, "num_examples"), GONE, "field 'num_examples': is missing"),
    ("architectures.json", ("architectures", "llama", "qkv"), ["q", "k"], "1 or 3 names"),
    ("architectures.json", ("architectures", "llama", "layout"), "deocder", "Write: decoder or"),
    ("architectures.json", ("architectures", "llama", "o"), GONE, "row 'llama', field 'o'"),
    ("architectures.json", ("architectures",), [], "field 'architectures'"),
    ("architectures.json", ("architectures", "llava", "text", "type"), "lama", "'text.type'"),
    ("architectures.json", ("architectures", "falcon", "norms", 4), [False, 1], "last condition"),
    ("coefficients/memory.json", ("coefficients", "context_bytes"), GONE, "'context_bytes'"),
    ("coefficients/memory.json", ("coefficients", "working_fraction"), -1, "from 0 on"),
    ("coefficients/memory.json", ("intervals", "device", "high"), 0.1, "more than high"),
    ("coefficients/memory.json", ("intervals", "needed"), GONE, "row 'needed': is missing"),
    ("coefficients/time.json", ("intervals", "time"), [0.8, 1.2, 7], "row 'time'"),
    ("coefficients/time.json", ("coefficients", "efficiency", "default"), GONE, "'efficiency.def"),
    ("coefficients/time.json", ("coefficients", "bandwidth_share"), 0, "a number above 0"),
    ("models.json", ("models", 7, "id"), 7, "'number 8', field 'id': is 7"),
    ("models.json", ("models", 7, "aliases"), -7, "field 'aliases': is -7. Write: a list of names"),
    ("models.json", ("models", 7, "variants"), -7, "field 'variants': is -7"),
    ("models.json", ("models", 7, "context"), "twelve", "field 'context': is 'twelve'"),
    ("models.json", ("models", 7, "config"), -7, "field 'config': is -7. Write: an object"),
    ("gpus.json", ("gpus", 3, "pcie"), {"a": 1}, "field 'pcie'"),
]


@pytest.mark.parametrize(("file", "path", "value", "says"), CASES)
def test_a_typo_is_named(
    broken: Callable[[str, Any], None],
    file: str,
    path: tuple[str | int, ...],
    value: Any,
    says: str,
) -> None:
    broken(file, changed(file, path, value))
    with pytest.raises(DataFileError) as caught:
        CHECKS[file]()
    assert caught.value.file == file
    assert says in str(caught.value)
    assert caught.value.suggestions


@pytest.mark.parametrize("file", CHECKS)
@pytest.mark.parametrize("content", [[], {}, None, 7])
def test_an_emptied_file_is_named(
    broken: Callable[[str, Any], None], file: str, content: Any
) -> None:
    broken(file, content)
    with pytest.raises(DataFileError, match=file):
        CHECKS[file]()


@pytest.mark.parametrize(
    ("file", "path", "value", "words"),
    [
        ("techniques.json", (3, "family"), "zzz", ["estimate", "--model", "gpt2"]),
        ("workloads.json", (0, "num_train_epochs"), -3, ["estimate", "--model", "gpt2"]),
        ("models.json", ("models", 7, "config"), -7, ["list", "models"]),
        ("models.json", ("models", 7, "context"), "twelve", ["list", "models"]),
        ("trainers.json", (0, "framework"), GONE, ["list", "trainers"]),
        ("target_modules.json", ("tables", "lora"), GONE, ["validate"]),
    ],
)
def test_the_command_line_says_so(
    broken: Callable[[str, Any], None],
    capsys: pytest.CaptureFixture[str],
    file: str,
    path: tuple[str | int, ...],
    value: Any,
    words: list[str],
) -> None:
    broken(file, changed(file, path, value))
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"ftadvisor: {file}")


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:  # pyright: ignore[reportUnknownVariableType]
        yield (*path, key)
        yield from paths(value[key], (*path, key))  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.parametrize("file", CHECKS)
def test_no_typo_is_a_fault(broken: Callable[[str, Any], None], file: str) -> None:
    chosen = random.Random(file)
    places = list(paths(read_json(file)))
    for _ in range(MUTATIONS):
        path, value = chosen.choice(places), chosen.choice(["zzz", -7, None, [], {}, GONE, 1.5])
        broken(file, changed(file, path, value))
        with contextlib.suppress(DataFileError):
            CHECKS[file]()

"""GPUs by any name people give them: `data/gpus.json` to records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast, get_args

from ftadvisor.errors import AmbiguousNameError, DataFileError, UnknownNameError, quoted
from ftadvisor.schema.hardware import Arch, Gpu, GpuKind, Link, Vendor
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import NULL, TEXT, Kind, any_of, check_value, one_of
from ftadvisor.units import GB, GIB, MIB, TERA

_FILE = "gpus.json"
_SEE = "ftadvisor list gpus"
_DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4")
_RATES = {dtype: f"{dtype}_tflops" for dtype in _DTYPES}
_CAPABILITY = re.compile(r"(\d{1,2}\.\d)?")
_TEXTS: dict[str, Kind] = {
    "id": TEXT, "name": TEXT, "source": TEXT, "usable_as": TEXT,
    "pcie": any_of(TEXT, NULL),
    "vendor": one_of(get_args(Vendor)), "arch": one_of(get_args(Arch)),
    "kind": one_of(get_args(GpuKind)), "link": one_of(get_args(Link)),
    "compute_capability": Kind(
        "NVIDIA's, such as 8.6; empty for others",
        lambda v: isinstance(v, str) and _CAPABILITY.fullmatch(v) is not None,
    ),
}  # fmt: skip
_NUMBERS = ("memory_gib", "memory_bandwidth_gb_per_second", "link_gb_per_second")
_UNKNOWABLE = (
    "torch_total_gib",
    "l2_cache_mib",
    "multiprocessors",
    "power_watts",
    *_RATES.values(),
)
_WARP = 32
"""Threads that run in step, on every GPU of NVIDIA's."""
_CONFIDENCES = ("high", "medium", "low")
_FIELDS = frozenset(
    (
        *_TEXTS, *_NUMBERS, *_UNKNOWABLE,
        "aliases", "confidence", "sources", "verified_by", "note",
    )
)  # fmt: skip

# Words that tell no two GPUs apart, and those that only narrow a choice: a name without them means
# every variant.
_NOISE = frozenset(
    (
        "nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "radeon", "intel", "apple",
        "arc", "gpu", "graphics", "generation", "hbm2", "hbm2e", "hbm3", "hbm3e", "rtx", "gtx",
        "rx",
    )
)  # fmt: skip
_FORMS = frozenset(("sxm", "sxm2", "sxm4", "sxm5", "pcie", "nvl", "oam"))


class GpuMatch(NamedTuple):
    """The GPU a name was taken for, and what that took for granted."""

    gpu: Gpu
    assumption: str | None
    """Why this one where the name fits several; None: it fits only this one."""


class _Name(NamedTuple):
    core: str
    forms: frozenset[str]
    gib: frozenset[int]


def find_gpu(name: str) -> Gpu:
    """The GPU of that name, as `match_gpu` finds it."""
    return match_gpu(name).gpu


@lru_cache(maxsize=1024)
def match_gpu(name: str) -> GpuMatch:
    """The GPU that a name means: its id, its vendor's name, or any common short form.

    A name that fits several GPUs of one memory size is taken for the slowest of them, and the
    assumption says so. Raises UnknownNameError with near misses, AmbiguousNameError where the
    candidates differ in memory, DataFileError where the row found cannot be right.
    """
    found = _candidates(name)
    if not found:
        raise UnknownNameError("GPU", name, gpu_ids(), see=_SEE)
    if len(found) == 1:
        return GpuMatch(_gpu(found[0]), None)
    gpus = [_gpu(row) for row in found]
    if len({gpu.memory_bytes for gpu in gpus}) > 1:
        raise AmbiguousNameError("GPU", name, [gpu.id for gpu in gpus], "memory")
    slowest = min(gpus, key=_speed)
    others = " or ".join(gpu.id for gpu in gpus if gpu is not slowest)
    return GpuMatch(
        slowest, f"{quoted(name)} may also be {others}: {slowest.id}, the slowest, is assumed"
    )


def fitting_ids(name: str) -> tuple[str, ...]:
    """The ids of all GPUs that a name may mean; none where it means none."""
    return tuple(row["id"] for row in _candidates(name))


def gpu_ids() -> tuple[str, ...]:
    """The ids of all GPUs, in the file's order."""
    return tuple(_rows())


def all_gpus() -> tuple[Gpu, ...]:
    """All GPUs, in the file's order. Raises DataFileError at the first row that is wrong."""
    return tuple(_gpu(row) for row in _rows().values())


def check_gpus() -> None:
    """Look at every row. Raises DataFileError: file, row, field and what to write."""
    all_gpus()


@cache
def _file() -> dict[str, Any]:
    content = _object(read_json(_FILE))
    for key, kind in (("gpus", list), ("sources", dict), ("usable", dict)):
        if not isinstance(content.get(key), kind):
            raise DataFileError(_FILE, None, key, "is missing", f"a {kind.__name__}")
    return content


@cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for position, content in enumerate(_file()["gpus"], start=1):
        row = _object(content)
        name = row.get("id")
        if not isinstance(name, str) or not name:
            raise DataFileError(_FILE, f"{position} of gpus", "id", "is missing", "a unique id")
        if name in rows:
            raise _wrong(name, "id", "occurs twice", "a unique id")
        _check_names(name, row)
        rows[name] = row
    return rows


def _candidates(name: str) -> list[dict[str, Any]]:
    """The rows a name fits: by spelling if there are any, else by its parts."""
    rows = _rows()
    if name in rows:
        return [rows[name]]
    spelt = _bare(name)
    exact = [row for row in rows.values() if spelt in {_bare(s) for s in (row["id"], row["name"])}]
    if exact:
        return exact
    found = [row for row in rows.values() if spelt in {_bare(s) for s in row["aliases"]}]
    if found:
        return found
    wanted = _parse(name)
    if not wanted.core:
        return []
    return [row for row in rows.values() if _fits(wanted, row)]


def _fits(wanted: _Name, row: dict[str, Any]) -> bool:
    spellings = (row["id"], *row["aliases"])
    # Most rows end here, which saves parsing them.
    if not any(wanted.core in _bare(spelling) for spelling in spellings):
        return False
    if wanted.gib and all(row.get("memory_gib") != gib for gib in wanted.gib):
        return False
    if all(wanted.core != _parse(spelling).core for spelling in spellings):
        return False
    # sxm stands for each of sxm2 to sxm6.
    forms = _parse(row["id"]).forms
    return all(any(form.startswith(asked) for form in forms) for asked in wanted.forms)


def _parse(name: str) -> _Name:
    """A name without noise: what model it is, in which forms, with how many GiB."""
    words = [word for word in _words(name) if word not in _NOISE]
    core: list[str] = []
    forms: set[str] = set()
    gib: set[int] = set()
    for word in words:
        number = word.removesuffix("b").removesuffix("gi").removesuffix("g")
        if word != number and number.isdecimal():
            gib.add(int(number))
        elif word in _FORMS:
            forms.add(word)
        else:
            core.append("laptop" if word == "mobile" else word)
    return _Name("".join(core), frozenset(forms), frozenset(gib))


def _words(name: str) -> Iterator[str]:
    """Lower-case words; `rtx3060ti` and `a100sxm` are cut where the known words begin and end."""
    text = "".join(char if char.isalnum() else " " for char in name.casefold())
    for unit in ("gib", "gb"):
        text = text.replace(f" {unit}", unit)
    for word in text.split():
        for brand in ("rtx", "gtx", "rx"):
            if word.startswith(brand) and len(word) > len(brand):
                word = word[len(brand) :]
                break
        cut = min((at for form in ("sxm", "pcie", "nvl") if (at := word.find(form)) > 0), default=0)
        if cut:
            yield word[:cut]
        yield word[cut:]


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _speed(gpu: Gpu) -> tuple[float, float, float]:
    rates = gpu.flops_per_second
    rate = rates.get("bf16") or rates.get("fp16") or rates.get("fp32", 0.0)
    return rate, gpu.memory_bandwidth_bytes_per_second, gpu.link_bytes_per_second


def _gpu(row: dict[str, Any]) -> Gpu:
    """The record of a row. Raises DataFileError that names the field and what to write."""
    _check(row)
    total = row["torch_total_gib"]
    assumed = total is None
    if assumed:
        total = row["memory_gib"] * _usable_share(row)
    return Gpu(
        id=row["id"],
        name=row["name"],
        vendor=row["vendor"],
        arch=row["arch"],
        kind=row["kind"],
        compute_capability=row["compute_capability"],
        memory_bytes=round(row["memory_gib"] * GIB),
        usable_bytes=round(total * GIB),
        usable_assumed=assumed,
        memory_bandwidth_bytes_per_second=row["memory_bandwidth_gb_per_second"] * GB,
        l2_cache_bytes=_bytes(row["l2_cache_mib"], MIB),
        multiprocessors=row["multiprocessors"],
        resident_threads=_resident_threads(row),
        flops_per_second={
            dtype: row[key] * TERA for dtype, key in _RATES.items() if row[key] is not None
        },
        link=row["link"],
        link_bytes_per_second=row["link_gb_per_second"] * GB,
        host_link_bytes_per_second=_host_link(row) * GB,
        power_watts=row["power_watts"],
    )


def _bytes(value: float | None, unit: int) -> float | None:
    return None if value is None else value * unit


def _resident_threads(row: dict[str, Any]) -> int | None:
    """On one multiprocessor, by compute capability."""
    capability = row["compute_capability"]
    if not capability:
        return None
    warps = _object(_file().get("resident_warps"))
    if not isinstance(warps.get(capability), int):
        known = " or ".join(list(warps)[1:])
        raise _wrong(row["id"], "compute_capability", f"is {quoted(capability)}", known)
    return _WARP * warps[capability]


def _host_link(row: dict[str, Any]) -> float:
    """GB/s to the CPU's memory: by the slot; memory that GPU and CPU share is as fast as itself."""
    slot = row["pcie"]
    if slot is None:
        return row["memory_bandwidth_gb_per_second"]
    rates = _object(_file().get("pcie_gb_per_second"))
    if not isinstance(rates.get(slot), int | float):
        raise _wrong(row["id"], "pcie", f"is {quoted(slot)}", " or ".join(list(rates)[1:]))
    return rates[slot]


def _usable_share(row: dict[str, Any]) -> float:
    rules = _file()["usable"]
    share = _object(rules.get(row["usable_as"])).get("share")
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise _wrong(
            row["id"], "usable_as", f"is {quoted(row['usable_as'])}", " or ".join(sorted(rules))
        )
    return share


def _check_names(name: str, row: dict[str, Any]) -> None:
    """What every look-up reads, whichever GPU it is for."""
    if not isinstance(row.get("name"), str):
        raise _wrong(name, "name", f"is {quoted(row.get('name'))}", "what its vendor calls it")
    aliases = row.get("aliases")
    if not isinstance(aliases, list) or any(not isinstance(a, str) for a in aliases):  # pyright: ignore[reportUnknownVariableType]
        raise _wrong(name, "aliases", f"is {quoted(aliases)}", "a list of names, or []")  # pyright: ignore[reportUnknownArgumentType]


def _check(row: dict[str, Any]) -> None:
    name = row["id"]
    for key in sorted(_FIELDS ^ row.keys()):
        if key in _FIELDS:
            raise _wrong(name, key, "is missing", "the value, or null where it is unknown")
        raise _wrong(name, key, "is no field of a GPU", "one of " + ", ".join(sorted(_FIELDS)))
    for key, kind in _TEXTS.items():
        check_value(_FILE, name, key, row[key], kind)
    for key in (*_NUMBERS, *_UNKNOWABLE):
        value = row[key]
        if value is None and key in _UNKNOWABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise _wrong(name, key, f"is {quoted(value)}", "a number above 0")
    _usable_share(row)
    if (row["torch_total_gib"] or 0) > row["memory_gib"]:
        raise _wrong(name, "torch_total_gib", "is more than memory_gib", "what torch reports, GiB")
    if row["confidence"] not in _CONFIDENCES:
        write = " or ".join(_CONFIDENCES)
        raise _wrong(name, "confidence", f"is {quoted(row['confidence'])}", write)
    if not isinstance(row["sources"], dict):
        raise _wrong(name, "sources", "is no object", '{"field": "a key of the table sources"}')
    known = list(_file()["sources"])
    for field, source in {"source": row["source"], **_object(row["sources"])}.items():
        if source not in known:
            raise _wrong(name, field, f"has source {quoted(source)}", "a key of the table sources")


def _object(value: Any) -> dict[str, Any]:
    """A JSON object; anything else as an empty one, which lacks whatever is looked for."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _wrong(row: str, field: str, problem: str, write: str) -> DataFileError:
    return DataFileError(_FILE, row, field, problem, write)

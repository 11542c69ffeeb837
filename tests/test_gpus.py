"""GPUs: the facts of data/gpus.json, and the names people give them."""

from __future__ import annotations

import contextlib
import copy
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvisor.errors import AmbiguousNameError, DataFileError, UnknownNameError
from ftadvisor.sources import gpus
from ftadvisor.sources.data_files import data_dir, read_json
from ftadvisor.sources.gpus import all_gpus, check_gpus, find_gpu, gpu_ids, match_gpu
from ftadvisor.units import GIB, MIB, TERA

NOT_STATED = "NVIDIA V100 (32GB or 16GB not stated)"


def test_every_row_is_right():
    check_gpus()
    assert len(gpu_ids()) >= 118


@pytest.mark.parametrize(
    ("gpu", "dtype", "tflops"),
    [  # As the vendors' documents print them, without sparsity.
        ("v100-sxm2-16gb", "fp16", 125),
        ("t4", "fp16", 65),
        ("a100-sxm4-80gb", "bf16", 312),
        ("a100-sxm4-80gb", "tf32", 156),
        ("h100-sxm5-80gb", "bf16", 989.4),
        ("h100-pcie-80gb", "bf16", 756),
        ("rtx-3090", "bf16", 71.2),
        ("rtx-4090", "fp16", 165.2),
        ("rtx-a6000", "bf16", 154.8),
        ("l4", "bf16", 121),
        ("mi300x", "bf16", 1307.4),
    ],
)
def test_rates_are_dense_with_fp32_accumulation(gpu: str, dtype: str, tflops: float):
    assert find_gpu(gpu).flops_per_second[dtype] == pytest.approx(tflops * TERA, rel=0.001)


def test_precisions_exist_where_the_hardware_has_them():
    for gpu in all_gpus():
        rates = gpu.flops_per_second
        if gpu.vendor != "nvidia":
            assert gpu.compute_capability == ""
            continue
        capability = float(gpu.compute_capability)
        assert gpu.has_bf16 == ("tf32" in rates) == (capability >= 8), gpu.id
        assert ("fp8" in rates) == (capability >= 8.9), gpu.id
        assert ("fp4" in rates) == (capability >= 10), gpu.id


def test_narrower_numbers_are_never_slower():
    for gpu in all_gpus():
        rates = [gpu.flops_per_second.get(d) for d in ("tf32", "fp16", "fp8", "fp4")]
        known = [rate for rate in rates if rate is not None]
        assert known == sorted(known), gpu.id
        assert gpu.flops_per_second.get("bf16", known[0]) > 0


def test_units_are_plausible():
    for gpu in all_gpus():
        assert 6 * GIB <= gpu.memory_bytes <= 512 * GIB, gpu.id
        assert 5e10 <= gpu.memory_bandwidth_bytes_per_second <= 1e13, gpu.id
        assert 4e9 <= gpu.link_bytes_per_second <= 1e12, gpu.id
        assert gpu.link_bytes_per_second < gpu.memory_bandwidth_bytes_per_second, gpu.id
        fastest = max(gpu.flops_per_second.values())
        assert 10 <= fastest / gpu.memory_bandwidth_bytes_per_second <= 2000, gpu.id
        assert gpu.power_watts is None or 10 <= gpu.power_watts <= 1500, gpu.id


def test_boards_of_one_chip_have_its_cache():
    # Those of AD102 that have all of their memory channels, and GA100 boards.
    for ids in (("l40", "l40s", "l20", "rtx-6000-ada"), ("a100-pcie-80gb", "a100-sxm4-40gb")):
        assert len({find_gpu(name).l2_cache_bytes for name in ids}) == 1
    assert find_gpu("rtx-4090").l2_cache_bytes == 72 * MIB
    assert find_gpu("mi300x").l2_cache_bytes is None
    for gpu in all_gpus():
        assert gpu.l2_cache_bytes is None or 1 * MIB <= gpu.l2_cache_bytes <= 256 * MIB, gpu.id


CORES = {"6.1": 128, "6.0": 64, "7.0": 64, "7.5": 64, "8.0": 64}
"""fp32 units of a multiprocessor; 128 since (CUDA C++ Programming Guide, arithmetic throughput)."""


def test_multiprocessors_give_a_clock():
    """The fp32 rate is units times two times the clock."""
    for gpu in all_gpus():
        if gpu.multiprocessors is None:
            continue
        units = gpu.multiprocessors * CORES.get(gpu.compute_capability, 128)
        clock = gpu.flops_per_second["fp32"] / (2 * units)
        assert 1.2e9 < clock < 2.7e9, gpu.id
        assert gpu.resident_threads in (1024, 1536, 2048), gpu.id
    assert find_gpu("h100-sxm").multiprocessors == 132
    assert find_gpu("mi300x").resident_threads is None


def test_usable_is_less_than_nominal():
    for gpu in all_gpus():
        assert 0.66 <= gpu.usable_bytes / gpu.memory_bytes <= 1, gpu.id
    rtx_4090 = find_gpu("rtx-4090")
    assert rtx_4090.memory_bytes == 24 * GIB
    assert rtx_4090.usable_bytes == pytest.approx(23.5 * GIB, rel=0.002)
    assert not rtx_4090.usable_assumed
    assert find_gpu("gtx-1060-6gb").usable_assumed


def test_assumed_shares_are_the_medians_of_the_sourced_ones():
    content = read_json("gpus.json")
    shares: dict[str, list[float]] = defaultdict(list)
    for row in content["gpus"]:
        if row["torch_total_gib"] and row["id"] != "gb10-spark":  # of a kind of its own
            shares[row["usable_as"]].append(row["torch_total_gib"] / row["memory_gib"])
    for name, rule in content["usable"].items():
        assert rule["of"] == len(shares[name]), name
        assert rule["share"] == pytest.approx(median(shares[name]), abs=0.0006), name


def test_every_source_is_used_and_dated():
    content = read_json("gpus.json")
    used = {row["source"] for row in content["gpus"]}
    used |= {source for row in content["gpus"] for source in row["sources"].values()}
    assert used == set(content["sources"])
    assert all(source["title"] and source["date"] for source in content["sources"].values())
    for row in content["gpus"]:
        assert set(row["sources"]) <= set(row), row["id"]
        for unknowable in ("torch_total_gib", "l2_cache_mib", "multiprocessors"):
            assert (row[unknowable] is None) == (unknowable not in row["sources"]), row["id"]


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("rtx3060", "rtx-3060-12gb"),
        ("3060", "rtx-3060-12gb"),
        ("RTX 3060 12GB", "rtx-3060-12gb"),
        ("RTX 3060 12 GB", "rtx-3060-12gb"),
        ("rtx3060ti", "rtx-3060-ti"),
        ("RTX_4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("4090 mobile", "rtx-4090-laptop"),
        ("rtx 4060 ti 16gb", "rtx-4060-ti-16gb"),
        ("Tesla T4", "t4"),
        ("a10", "a10"),
        ("NVIDIA A10G 24GB", "a10g"),
        ("a6000", "rtx-a6000"),
        ("RTX 6000 Ada", "rtx-6000-ada"),
        ("Quadro RTX 6000", "quadro-rtx-6000"),
        ("RTX PRO 6000", "rtx-pro-6000-blackwell"),
        ("A100-SXM-80GB", "a100-sxm4-80gb"),
        ("a100 80gb pcie", "a100-pcie-80gb"),
        ("h100sxm", "h100-sxm5-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA H200", "h200-sxm5-141gb"),
        ("h100-96gb", "h100-grandteton-96gb"),
        ("b200 192gb", "b200-180gb"),
        ("mi300", "mi300x"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("m3 max", "apple-m3-max"),
    ],
)
def test_loose_names(name: str, gpu: str):
    match = match_gpu(name)
    assert match.gpu.id == gpu
    assert match.assumption is None


@pytest.mark.parametrize(
    ("name", "slowest", "other"),
    [
        ("h100-80gb", "h100-pcie-80gb", "h100-sxm5-80gb"),
        ("h200", "h200-nvl-141gb", "h200-sxm5-141gb"),
        ("a100-80gb", "a100-pcie-80gb", "a100-sxm4-80gb"),
        ("a100 40g", "a100-pcie-40gb", "a100-sxm4-40gb"),
        ("v100-32gb", "v100-pcie-32gb", "v100-sxm2-32gb"),
    ],
)
def test_same_memory_means_the_slowest_and_says_so(name: str, slowest: str, other: str):
    match = match_gpu(name)
    assert match.gpu.id == slowest
    assert match.assumption is not None
    assert slowest in match.assumption
    assert other in match.assumption


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("a100", {"a100-pcie-40gb", "a100-sxm4-40gb", "a100-pcie-80gb", "a100-sxm4-80gb"}),
        ("rtx4060ti", {"rtx-4060-ti-8gb", "rtx-4060-ti-16gb"}),
        ("RTX 6000", {"quadro-rtx-6000", "rtx-6000-ada", "rtx-pro-6000-blackwell"}),
        ("NVIDIA GeForce RTX 2060", {"rtx-2060-6gb", "rtx-2060-12gb"}),
    ],
)
def test_candidates_of_other_memory_are_listed(name: str, candidates: set[str]):
    with pytest.raises(AmbiguousNameError, match="differ in memory") as caught:
        match_gpu(name)
    assert set(caught.value.suggestions) == candidates


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("rtx 4091", "rtx-4090"), ("4090ti", "rtx-3090-ti"), ("rtx 3060 8gb", "rtx-3060-12gb")],
)
def test_unknown_names_get_near_misses(name: str, suggestion: str):
    with pytest.raises(UnknownNameError, match="ftadvisor list gpus") as caught:
        find_gpu(name)
    assert not isinstance(caught.value, AmbiguousNameError)
    assert suggestion in caught.value.suggestions


@pytest.mark.parametrize(
    "name", ["", " ", "24gb", "sxm", "rtx", "NVIDIA GPU", "\x00", "𝟛𝟘𝟞𝟘²", "gb"]
)
def test_names_without_a_model_are_unknown(name: str):
    with pytest.raises(UnknownNameError):
        find_gpu(name)


@given(st.text(max_size=40))
def test_no_text_does_worse_than_unknown(name: str):
    with contextlib.suppress(UnknownNameError):
        assert match_gpu(name).gpu.id in gpu_ids()


def test_every_id_names_itself_and_every_alias_its_row():
    for row in read_json("gpus.json")["gpus"]:
        assert match_gpu(row["id"]) == (find_gpu(row["id"]), None)
        for spelling in (row["name"], *row["aliases"]):
            assert row["id"] in meant(spelling), spelling


def meant(name: str) -> str:
    """The ids that a name is taken for."""
    try:
        match = match_gpu(name)
    except AmbiguousNameError as error:
        return " ".join(error.suggestions)
    return f"{match.gpu.id} {match.assumption}"


def published_names() -> Iterator[tuple[str, str]]:
    path = data_dir() / "measurements" / "published.jsonl"
    rows = (json.loads(line) for line in path.read_text().splitlines() if line)
    yield from sorted({(row["gpu"], row["gpu_as_published"]) for row in rows})


def test_every_published_name_is_understood():
    for gpu, as_published in published_names():
        found = find_gpu(gpu)
        if as_published == NOT_STATED:
            with pytest.raises(AmbiguousNameError):
                find_gpu(as_published)
        else:
            assert find_gpu(as_published).memory_bytes == found.memory_bytes, as_published


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give the module a file of one row with some fields changed (`...`: left out)."""
    content = read_json("gpus.json")
    row = next(row for row in content["gpus"] if row["id"] == "gtx-1080")

    def write(**fields: Any) -> None:
        changed = {k: v for k, v in (copy.deepcopy(row) | fields).items() if v is not ...}
        file = {**content, "gpus": [changed]}
        monkeypatch.setattr(gpus, "read_json", lambda _name: file)
        clear()

    def clear() -> None:
        gpus._file.cache_clear()  # pyright: ignore[reportPrivateUsage]
        gpus._rows.cache_clear()  # pyright: ignore[reportPrivateUsage]
        match_gpu.cache_clear()

    yield write
    monkeypatch.undo()
    clear()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("memory_gib", "8", "a number above 0"),
        ("memory_gib", -8, "a number above 0"),
        ("memory_gib", True, "a number above 0"),
        ("memory_gib", None, "a number above 0"),
        ("memory_gib", float("nan"), "a number above 0"),
        ("memory_gib", float("inf"), "a number above 0"),
        ("fp16_tflops", 0, "a number above 0"),
        ("fp16_tflops", ..., "is missing"),
        ("fp16_tflop", 8.9, "is no field of a GPU"),
        ("torch_total_gib", 9, "more than memory_gib"),
        ("usable_as", "gdr", "gddr or gddr-ecc"),
        ("arch", "", "pascal or volta"),
        ("arch", None, "pascal or volta"),
        ("arch", "zzz", "pascal or volta"),
        ("kind", "zzz", "consumer or laptop"),
        ("vendor", "zzz", "nvidia or amd"),
        ("compute_capability", 6.1, "such as 8.6"),
        ("compute_capability", "zzz", "such as 8.6"),
        ("link_gb_per_second", [], "a number above 0"),
        ("confidence", "sure", "high or medium or low"),
        ("source", "nv-geforce", "has source 'nv-geforce'"),
        ("source", ["nv"], "text"),
        ("sources", {"arch": "hearsay"}, "has source 'hearsay'"),
        ("sources", {"arch": []}, "has source \\[\\]"),
        ("sources", [], "is no object"),
        ("aliases", "1080", "a list of names"),
        ("aliases", [1080], "a list of names"),
    ],
)
def test_bad_rows_name_file_row_and_field(
    broken: Callable[..., None], field: str, value: Any, says: str
):
    # The last one leaves torch's total open, so that the share of `usable_as` is needed.
    broken(**({"torch_total_gib": None} | {field: value}))
    with pytest.raises(DataFileError, match=says) as caught:
        check_gpus()
    assert caught.value.file == "gpus.json"
    assert caught.value.row == "gtx-1080"
    named = "arch" if isinstance(value, dict) else field
    assert caught.value.field == named
    assert caught.value.suggestions


def test_a_share_that_nobody_needs_is_looked_at_too(broken: Callable[..., None]):
    broken(torch_total_gib=7.9, usable_as="zzz")
    with pytest.raises(DataFileError, match="gddr or gddr-ecc"):
        check_gpus()


def test_a_bad_row_is_found_when_it_is_asked_for(broken: Callable[..., None]):
    broken(memory_gib="eight")
    with pytest.raises(DataFileError, match="gtx-1080"):
        find_gpu("gtx 1080")


@pytest.mark.parametrize("content", [None, [], {}, {"gpus": {}}, {"gpus": [], "sources": {}}])
def test_a_file_of_another_shape_is_named(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch, content: Any
):
    broken()
    monkeypatch.setattr(gpus, "read_json", lambda _name: content)
    with pytest.raises(DataFileError, match=r"gpus\.json"):
        gpu_ids()


def test_another_row_without_names_is_named(broken: Callable[..., None]):
    broken(name=...)
    with pytest.raises(DataFileError, match="what its vendor calls it"):
        find_gpu("rtx-4090")


@pytest.mark.parametrize("row", [None, 7, {}, {"id": None}, {"id": ""}])
def test_a_row_without_an_id_is_counted(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch, row: Any
):
    broken()
    file = {"gpus": [row], "sources": {}, "usable": {}}
    monkeypatch.setattr(gpus, "read_json", lambda _name: file)
    with pytest.raises(DataFileError, match="1 of gpus"):
        gpu_ids()


def test_an_id_that_occurs_twice_is_named(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    broken()
    row = {"id": "t4", "name": "Tesla T4", "aliases": []}
    file = {"gpus": [row, row], "sources": {}, "usable": {}}
    monkeypatch.setattr(gpus, "read_json", lambda _name: file)
    with pytest.raises(DataFileError, match="twice"):
        gpu_ids()

"""Reading a dataset: formats, faults, duplicates, lengths, leakage; speed and memory as ratios."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvisor.api import estimate
from ftadvisor.errors import (
    DataFileError,
    FtadvisorError,
    InvalidSettingError,
    MissingExtraError,
    UnknownNameError,
    UnsupportedError,
)
from ftadvisor.schema.dataset import DatasetProfile
from ftadvisor.sources.datasets import CHARACTERS_PER_TOKEN, profile_dataset, read_workload
from ftadvisor.sources.datasets import blocks as blocks_module
from ftadvisor.sources.datasets.duplicates import Hashes, near_duplicates
from ftadvisor.sources.datasets.formats import NAMES
from ftadvisor.sources.datasets.sampling import Reservoir, Sampled, share_of
from ftadvisor.sources.datasets.statistics import packing_gain, padding_waste, percentiles
from ftadvisor.sources.datasets.tokens import characters_per_token, non_latin_share

WORDS = [
    "".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=2 + i % 8))
    for i in range(4000)
]


def prose(seed: int, words: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def profiled(tmp_path: Path, rows: list[Any]) -> DatasetProfile:
    return profile_dataset(jsonl(tmp_path / "rows.jsonl", rows))


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


CHAT = [said("user", "Why?"), said("assistant", "Because.")]
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
PHOTO = [
    said("user", [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]),
    said("assistant", [{"type": "text", "text": "A cat."}]),
]

FORMATS = [
    ({"context": "c", "question": "q", "answer": "a"}, "prompt_completion", {"input": "context"}),
    ({"instruction": "Do.", "input": "", "output": "Done."}, "instruction", {"output": "output"}),
    (
        {"instruction": "Do.", "context": "c", "response": "r", "category": "x"},
        "instruction",
        {"input": "context", "output": "response"},
    ),
    ({"system": "Be.", "instruction": "Do.", "output": "x"}, "instruction", {"system": "system"}),
    (
        {"prompt": "Why?", "completion": "So."},
        "prompt_completion",
        {"prompt": "prompt", "completion": "completion"},
    ),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt_completion", {}),
    ({"question": "1 + 1", "answer": "2"}, "prompt_completion", {"prompt": "question"}),
    (
        {"article": "Long.", "highlights": "Short."},
        "prompt_completion",
        {"completion": "highlights"},
    ),
    ({"text": "Long.", "summary": "Short."}, "prompt_completion", {"prompt": "text"}),
    (
        {"problem": "1 + 1", "solution": "First, 2.", "answer": "2"},
        "prompt_completion",
        {"completion": "solution"},
    ),
    ({"Prompt": "Why?", "Completion": "So."}, "prompt_completion", {"prompt": "Prompt"}),
    ({"messages": CHAT}, "chat", {"messages": "messages"}),
    ({"prompt": "Why?", "prompt_id": "7", "messages": CHAT}, "chat", {}),
    ({"conversations": SHAREGPT}, "chat", {"messages": "conversations"}),
    ({"system": "Be.", "conversations": SHAREGPT}, "chat", {"system": "system"}),
    (
        {
            "messages": [
                said("user", "Hi"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "look"}}],
                },
            ]
        },
        "chat",
        {},
    ),
    (
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        "preference",
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    ),
    ({"chosen": "So.", "rejected": "No."}, "preference", {}),
    (
        {
            "prompt": "Why?",
            "chosen": CHAT,
            "rejected": [CHAT[0], said("assistant", "No.")],
            "messages": CHAT,
            "score_chosen": 8.0,
        },
        "preference",
        {},
    ),
    (
        {"prompt": "Why?", "completion": "So.", "label": True},
        "unpaired_preference",
        {"label": "label"},
    ),
    ({"text": "Good.", "label": 1}, "labelled", {"text": "text", "label": "label"}),
    ({"sentence": "Good.", "label": 0, "idx": 3}, "labelled", {"text": "sentence"}),
    ({"text": "Good.", "label": 1, "label_text": "pos"}, "labelled", {"label": "label_text"}),
    ({"premise": "A.", "hypothesis": "B.", "label": 2}, "labelled", {"second": "hypothesis"}),
    ({"text": "Good.", "labels": ["a", "b"]}, "labelled", {"label": "labels"}),
    ({"text": "Once."}, "raw", {"text": "text"}),
    ({"content": "Once.", "meta": {"url": "x"}}, "raw", {"text": "content"}),
    ({"image": "a.png", "text": "A cat."}, "image_text", {"image": "image", "text": "text"}),
    ({"image": {"path": "a.png"}, "caption": "A cat."}, "image_text", {"text": "caption"}),
    ({"image": "a.png", "conversations": SHAREGPT}, "image_text", {"messages": "conversations"}),
    ({"images": ["a.png"], "question": "What?", "answer": "A cat."}, "image_text", {}),
    ({"messages": PHOTO}, "image_text", {"messages": "messages"}),
    ({"prompt": "Why?"}, "prompts", {"prompt": "prompt"}),
    ({"prompt": CHAT[:1]}, "prompts", {}),
    ({"prompt": "1 + 1", "solution": "2"}, "prompts", {"prompt": "prompt"}),
    ({"prompt": "1 + 1", "answer": "2"}, "prompts", {}),
    ({"instruction": "Do."}, "prompts", {"prompt": "instruction"}),
]


@pytest.mark.parametrize(("row", "name", "columns"), FORMATS, ids=lambda value: str(value)[:50])
def test_every_format_is_told_by_its_columns(
    tmp_path: Path, row: dict[str, Any], name: str, columns: dict[str, str]
):
    found = profiled(tmp_path, [row] * 3)
    assert found.format == name
    assert found.formats == {name: 3}
    assert found.num_examples == found.num_rows == 3
    assert columns.items() <= found.columns.items()
    assert set(found.columns.values()) <= set(row)


BROKEN = [
    ({"text": "x", "label": None}, "column 'label' is missing"),
    ({"text": "x", "label": -1}, "no label"),
    ({"text": "x", "label": {"a": 1}}, "'label' is an object, not a class"),
    ({"text": 7, "label": 1}, "'text' is a number, not text"),
    ({"prompt": "Why?", "completion": ""}, "'completion' is empty"),
    ({"prompt": "Why?", "completion": None}, "'completion' is missing"),
    ({"prompt": "Why?", "completion": ["x"]}, "message 1 of 'completion' is text"),
    ({"instruction": "", "output": "x"}, "'instruction' is empty"),
    ({"messages": "[]"}, "'messages' is text"),
    ({"messages": [{"content": "x"}]}, "has no role"),
    ({"messages": [said("narrator", "x")]}, "has the role 'narrator'"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "has the role"),
    ({"messages": [said("user", "x")]}, "no answer"),
    ({"messages": [said("user", None)]}, "has no text"),
    ({"messages": ["x"]}, "is text, not an object"),
    ({"chosen": "x", "rejected": "x"}, "are the same"),
    ({"prompt": "x", "chosen": "x", "rejected": None}, "'rejected' is missing"),
    ({"image": None, "caption": "x"}, "no image"),
    ({"foo": "x", "bar": 1}, "no columns of a known format: 'foo', 'bar'"),
    ([1], "is not an object"),
    ("text", "is not an object"),
    (7, "is not an object"),
]


@pytest.mark.parametrize(("row", "says"), BROKEN, ids=lambda value: str(value)[:50])
def test_every_fault_is_counted_and_named_by_line(tmp_path: Path, row: Any, says: str):
    found = profiled(tmp_path, [{"text": "fine"}, row, {"text": "also fine"}])
    assert (found.num_rows, found.num_examples, found.broken_rows) == (3, 2, 1)
    assert found.problems[0].line == 2
    assert says in found.problems[0].what
    with pytest.raises(DataFileError, match=r"line 1: none of 1 rows can be used") as caught:
        profiled(tmp_path, [row])
    assert caught.value.suggestions


def test_a_row_that_lacks_a_column_of_the_others_is_broken(tmp_path: Path):
    rows = [{"instruction": "Do.", "input": "", "output": "x"}, {"instruction": "Do.", "input": ""}]
    found = profiled(tmp_path, rows)
    assert (found.format, found.num_examples) == ("instruction", 1)
    assert found.problems == ((2, "column 'output' is missing"),)
    found = profiled(tmp_path, [{"text": "a", "label": 1}, {"text": "b"}])
    assert found.problems == ((2, "column 'label' is missing"),)


def test_a_verdict_that_is_none(tmp_path: Path):
    rows = [{"prompt": "a", "completion": f"b{i}", "label": i % 2 == 0} for i in range(4)]
    found = profiled(tmp_path, [*rows, {"prompt": "a", "completion": "b", "label": 3}])
    assert found.format == "unpaired_preference"
    assert found.class_counts == {"true": 2, "false": 2}
    assert "not true or false" in found.problems[0].what


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": ""},
        {"text": "  "},
        {"text": None},
        {"prompt": "", "completion": ""},
        {"messages": []},
        {"foo": None},
    ],
)
def test_rows_without_text_are_empty_not_broken(tmp_path: Path, row: dict[str, Any]):
    found = profiled(tmp_path, [row, {"text": "fine"}])
    assert (found.empty_rows, found.broken_rows, found.num_examples) == (1, 0, 1)


def test_lines_that_are_no_json(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "a"}\r\n'
        b"\r\n"
        b'  {"text": "b"}  \n'
        b"{'text': 'c'}\n"
        b'{"text": "d"} {"text": "e"}\n'
        b'{"text": "\xe9"}\n'
        b'{"text": "f\0"}\n' + b"[" * 100_000 + b'\n{"text": ' + b"9" * 5000 + b'}\n{"text": "g"}'
    )
    found = profile_dataset(path)
    assert (found.num_examples, found.empty_rows, found.broken_rows) == (3, 1, 6)
    assert [problem.line for problem in found.problems] == [4, 5, 6, 7, 8, 9]
    said_of = [problem.what for problem in found.problems]
    assert "not UTF-8: byte 0xe9" in said_of[2]
    assert "nested" in said_of[4]
    assert all("is not JSON" in said_of[i] for i in (0, 1, 3, 5))


def test_only_the_first_problems_are_named(tmp_path: Path):
    found = profiled(tmp_path, [{"text": "fine"}, *[[1]] * 50])
    assert found.broken_rows == 50
    assert [problem.line for problem in found.problems] == list(range(2, 22))


def test_mixed_formats_are_counted_and_none_is_chosen(tmp_path: Path):
    rows = [{"text": "a"}, {"text": "b"}, {"prompt": "c", "completion": "d"}]
    found = profiled(tmp_path, rows)
    assert found.format is None
    assert found.formats == {"raw": 2, "prompt_completion": 1}
    for rows in (
        [{"messages": PHOTO}, {"messages": CHAT}],
        [{"image": "a.png", "messages": CHAT}, {"image": None, "messages": CHAT}],
    ):
        mixed = profiled(tmp_path, rows)
        assert mixed.format == "image_text"
        assert mixed.formats == {"image_text": 1, "chat": 1}


def test_lists_objects_and_lines_under_any_json_name(tmp_path: Path):
    rows = [{"text": f"row {i}"} for i in range(5)]
    texts = {
        "list": json.dumps(rows),
        "pretty": json.dumps(rows, indent=2),
        "lines": "\n".join(json.dumps(row) for row in rows),
        "padded": "\n" * 5 + json.dumps(rows) + "\n\n",
    }
    for suffix in ("json", "jsonl"):
        for name, text in texts.items():
            path = tmp_path / f"{name}.{suffix}"
            path.write_text(text)
            assert profile_dataset(path).num_examples == 5, path.name
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"messages": CHAT}, indent=2))
    assert profile_dataset(one).format == "chat"
    one.write_text('{"text": "broken"\n{"text": "a"}\n{"text": "b"}\n')
    assert profile_dataset(one).num_examples == 2
    one.write_text("[]")
    with pytest.raises(DataFileError, match="no rows"):
        profile_dataset(one)


@given(
    rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    block=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_a_list_is_read_alike_however_its_blocks_fall(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    block: int,
):
    from ftadvisor.sources.datasets.json_rows import json_rows

    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    pieces = (content[i : i + block] for i in range(0, len(content), block))
    found = json_rows(pieces, Path("rows.json"), lines_only=False)
    assert [value for _, value in found] == rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"text": "a"} {"text": "b"}]', "row 1 is followed by"),
        ('[{"text": "a"}, {"text": ]', "row 2 is not JSON"),
        ('[{"text": "a"}', "not closed"),
        ('[{"text": "a"},', "row 2 is not JSON"),
        ("[", "row 1"),
        ('{"data": [\n{"text": "a"}]}', "field 'data' holds the rows"),
        ('{\n"text": "a"}\n{\n"text": "b"}', "jq -c"),
        ('{\n"text": ', "is not JSON"),
    ],
)
def test_a_json_file_that_is_wrong_as_a_whole(tmp_path: Path, text: str, says: str):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataFileError, match=says) as caught:
        profile_dataset(path)
    assert caught.value.suggestions


def test_csv_and_its_faults(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'\xef\xbb\xbftext,label\r\n"two\r\nlines",a\r\nx,b,c\r\n\r\nonly\r\n'
        b"\xe9,a\r\nlast,b\r\n" + b'"open,b\r\nend'
    )
    found = profile_dataset(path)
    assert found.format == "labelled"
    assert found.class_counts == {"a": 1, "b": 1}
    assert (found.num_examples, found.empty_rows) == (2, 1)
    assert [problem.line for problem in found.problems] == [4, 6, 7, 9]
    assert "3 cells for 2 columns" in found.problems[0].what
    assert "'label' is missing" in found.problems[1].what
    assert "not UTF-8" in found.problems[2].what
    assert "never closed" in found.problems[3].what


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "text;label\nx;1\n", "separated by semicolons"),
        ("a.csv", "text\tlabel\nx\t1\n", "separated by tabs"),
        ("a.tsv", "text,label\nx,1\n", "separated by commas"),
        ("a.csv", "text,text\nx,1\n", "stands twice"),
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "Nice film,1\nBad film,0\n", "no columns of a known format"),
        ("a.jsonl", "", "no rows"),
        ("a.json", "", "no rows"),
        ("a.txt", "", "no rows"),
        ("a.txt", "\n \n", "no row with text"),
        ("a.jsonl", "\n\n", "no row with text"),
    ],
)
def test_tables_without_usable_rows(tmp_path: Path, name: str, text: str, says: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataFileError, match=says):
        profile_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (random.Random(0).randbytes(5000), "is binary|not UTF-8"),
        (bytes(5000), "is binary"),
        ('{"text": "x"}\n'.encode("utf-16"), "UTF-16"),
        ('{"text": "x"}\n'.encode("utf-16-le"), "UTF-16"),
        ('{"text": "x"}\n'.encode("utf-32"), "UTF-32"),
        (gzip.compress(b"x", mtime=0), "is gzip"),
        (b"PK\x03\x04....", "zip"),
        (b"PAR1....", "Parquet"),
        (b"SQLite format 3\0", "SQLite"),
        ("é\n".encode("latin-1"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_what_is_no_text_is_one_clear_message(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=says) as caught:
        profile_dataset(tmp_path / name)
    assert caught.value.suggestions


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.txt", "a.tsv.gz"]),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for read in (profile_dataset, lambda path: read_workload(path, 1.0)):
        with suppress(FtadvisorError):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "type", "text"]), inner)
    ),
    max_leaves=6,
)
COLUMNS = ["text", "label", "messages", "prompt", "completion", "chosen", "rejected", "image", "x"]


@given(rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), JSON), max_size=8))
@settings(max_examples=150, deadline=None)
def test_rows_of_any_kind_are_all_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
):
    path = jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", [{"text": "fine"}, *rows])
    found = profile_dataset(path)
    assert found.num_rows == len(rows) + 1
    assert found.num_rows == found.num_examples + found.empty_rows + found.broken_rows
    assert sum(found.formats.values()) == found.num_examples
    assert len(found.problems) == found.broken_rows
    assert 0 <= found.duplicate_rows < found.num_examples
    json.dumps(found.as_dict())


def test_one_giant_line_is_a_fault_not_a_full_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blocks_module, "LONGEST_ROW_BYTES", 5000)
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 1000)
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "x" * 20_000}, {"text": "b"}])
    found = profile_dataset(path)
    assert found.num_examples == 2
    assert found.problems[0].line == 2
    assert "is longer than" in found.problems[0].what


def test_text_files_are_read_by_line(tmp_path: Path):
    path = tmp_path / "book.txt"
    path.write_text("One.\n\nTwo.\nnull \0 byte\n" + "Three. " * 20)
    found = profile_dataset(path)
    assert (found.format, found.num_examples, found.empty_rows) == ("raw", 3, 1)
    assert "null byte" in found.problems[0].what


def test_compressed_files(tmp_path: Path):
    plain = jsonl(tmp_path / "rows.jsonl", [{"text": prose(i)} for i in range(50)])
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert profile_dataset(packed).lengths == profile_dataset(plain).lengths
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(DataFileError, match="is damaged"):
        profile_dataset(packed)
    packed.write_bytes(b"no gzip")
    with pytest.raises(DataFileError, match="is damaged"):
        profile_dataset(packed)
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="packed inside"):
        profile_dataset(tmp_path / "a.parquet.gz")


def test_what_needs_pyarrow_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("a.parquet", "a.arrow", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(MissingExtraError, match=r"ftadvisor\[data\]"):
            profile_dataset(tmp_path / name)


def test_parquet_arrow_and_zst_agree_with_jsonl(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    ipc = pytest.importorskip("pyarrow.ipc")
    rows = [
        {"prompt": prose(i), "chosen": CHAT, "rejected": [*CHAT[:1], said("user", "x")]}
        for i in range(2500)
    ]
    rows += [{"prompt": None, "chosen": None, "rejected": None}, rows[0]]
    reference = profile_dataset(jsonl(tmp_path / "rows.jsonl", rows))
    assert reference.duplicate_rows == 1
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=1000)
    with ipc.new_stream(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    with ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.CompressedOutputStream(str(tmp_path / "rows.jsonl.zst"), "zstd") as packed:
        packed.write((tmp_path / "rows.jsonl").read_bytes())
    for name in ("rows.parquet", "rows.arrow", "file.arrow", "rows.jsonl.zst"):
        found = profile_dataset(tmp_path / name)
        assert found.lengths == reference.lengths, name
        for field in ("format", "num_rows", "empty_rows", "duplicate_rows", "near_duplicates"):
            assert getattr(found, field) == getattr(reference, field), name


def test_images_in_parquet_are_not_read(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"x" * 1000, "path": f"{i}.png"} for i in range(10)]
    table = pa.table({"image": pa.array(images, kind), "text": ["What is it?"] * 10})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = profile_dataset(tmp_path / "a.parquet")
    assert (found.format, found.num_examples, found.duplicate_rows) == ("image_text", 10, 0)
    # The same question to different images is not the same example.
    assert found.near_duplicates.value == 0
    table = pa.table({"image": pa.array([b"x"] * 10), "text": ["What is it?"] * 10})
    parquet.write_table(table, tmp_path / "b.parquet")
    found = profile_dataset(tmp_path / "b.parquet")
    assert (found.format, found.num_examples, found.duplicate_rows) == ("image_text", 10, 0)
    parquet.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    with pytest.raises(DataFileError, match="no rows"):
        profile_dataset(tmp_path / "c.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"x" * 100])
def test_a_damaged_columnar_file(tmp_path: Path, name: str, content: bytes):
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=r"cannot be read|no rows"):
        profile_dataset(tmp_path / name)


def test_a_directory_of_splits_and_leakage(tmp_path: Path):
    rows = [{"text": prose(i), "label": i % 3} for i in range(100)]
    leaked = [{"text": f"  {row['text'].upper()}\n", "label": 9} for row in rows[:7]]
    jsonl(tmp_path / "train.jsonl", [*rows, rows[0]])
    jsonl(tmp_path / "validation.jsonl", [{"text": "new", "label": 0}])
    jsonl(tmp_path / "test.jsonl", [*leaked, {"text": "other", "label": 1}])
    (tmp_path / "README.md").write_text("About.")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".hidden.csv").write_text("x")
    found = profile_dataset(tmp_path)
    assert (found.split, found.num_rows, found.duplicate_rows) == ("train", 101, 1)
    assert found.leaked_rows == 8  # the copy of the first row leaks too
    assert profile_dataset(tmp_path, split="test").num_rows == 8
    assert profile_dataset(tmp_path / "train.jsonl").leaked_rows == 0
    given_path = tmp_path / "test.jsonl"
    assert profile_dataset(tmp_path / "train.jsonl", eval_path=given_path).leaked_rows == 8
    with pytest.raises(UnknownNameError, match="validation"):
        profile_dataset(tmp_path, split="valid")


def test_files_of_a_split_are_read_in_order(tmp_path: Path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "train-00000-of-00002.jsonl", [{"text": "a"}] * 3)
    jsonl(tmp_path / "data" / "train-00001-of-00002.jsonl", [{"text": "a"}, [1]])
    done: list[tuple[int, int]] = []
    found = profile_dataset(tmp_path, progress=lambda *so_far: done.append(so_far))
    assert (found.num_examples, found.duplicate_rows) == (4, 3)
    assert found.problems[0] == (2, "train-00001-of-00002.jsonl: is not an object")
    assert done == sorted(done)
    assert done[-1] == (found.num_bytes, found.num_bytes)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "a directory without a file that is read"),
        (["a.bin"], "a directory without a file that is read"),
        (["a.csv", "b.jsonl"], r"several kinds \(csv, json\)"),
    ],
)
def test_a_directory_that_is_no_dataset(tmp_path: Path, names: list[str], says: str):
    for name in names:
        (tmp_path / name).write_text("text\nx\n")
    with pytest.raises(InvalidSettingError, match=says):
        profile_dataset(tmp_path)


def test_a_path_that_is_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InvalidSettingError, match="not a file or a directory"):
        profile_dataset(tmp_path / "absent.jsonl")
    with pytest.raises(DataFileError, match="cannot be read"):
        profile_dataset("x" * 5000)
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(InvalidSettingError, match="not a format that is read"):
        profile_dataset(tmp_path / "a.docx")
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataFileError, match="cannot be read: Permission denied"):
        profile_dataset(path)


def test_two_hundred_copies_of_one_row(tmp_path: Path):
    found = profiled(tmp_path, [{"text": prose(0)}] * 200)
    assert found.num_examples == 200
    assert found.duplicate_rows == 199
    assert found.near_duplicates == (1.0, 1.0, 1.0)


def test_near_duplicates_are_rows_that_differ_by_a_word(tmp_path: Path):
    rows = [prose(i, 60) for i in range(60)]
    changed = [f"{row} changed" for row in rows[:20]]
    found = profiled(tmp_path, [{"text": text} for text in [*rows, *changed]])
    assert found.duplicate_rows == 0
    assert found.near_duplicates.value == 40 / 80
    chinese = ["".join(chr(0x4E00 + (i * 37 + j * 61) % 5000) for j in range(80)) for i in range(9)]
    found = profiled(tmp_path, [{"text": text} for text in [*chinese, chinese[0] + "好"]])
    assert found.near_duplicates.value == 2 / 10


def test_the_documents_name_every_column_that_is_read():
    text = (Path(__file__).parent.parent / "docs" / "data-formats.md").read_text()
    names = {name for names in NAMES.values() for name in names}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def jaccard(a: str, b: str) -> float:
    left, right = (
        {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}
        for words in (a.split(), b.split())
    )
    return len(left & right) / len(left | right)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), min_size=1, max_size=12))
@settings(deadline=None)
def test_near_duplicates_are_those_of_all_pairs(rows: list[list[str]]):
    texts = [" ".join(row) for row in rows]
    sample = [Sampled(text, len(text)) for text in texts]
    partnered = sum(
        any(jaccard(a, b) >= 0.8 for j, b in enumerate(texts) if i != j)
        for i, a in enumerate(texts)
    )
    assert near_duplicates(sample, len(sample), 0).value == partnered / len(texts)


def test_a_sample_s_near_duplicates_are_a_floor():
    texts = [prose(i) for i in range(200)]
    sample = [Sampled(text, len(text)) for text in [*texts, texts[0]]]
    found = near_duplicates(sample, 10_000, 3000)
    assert found.value == found.low == 0.3
    assert found.high > 0.9


@given(
    values=st.lists(st.integers(0, 30), max_size=200),
    others=st.lists(st.integers(0, 30), max_size=200),
)
def test_hashes_count_what_sets_count(values: list[int], others: list[int]):
    mine, theirs = Hashes(), Hashes()
    for value in values:
        mine.add(hash(str(value)))
    for value in others:
        theirs.add(hash(str(value)))
    assert mine.repeated() == len(values) - len(set(values))
    assert mine.shared_with(theirs) == sum(value in others for value in values)


def test_hashes_in_bounded_memory_follow_a_share_of_all_texts():
    mine, theirs = Hashes(most=2000), Hashes()
    generator = np.random.default_rng(0)
    values = generator.integers(-(2**63), 2**63 - 1, 20_000).tolist()
    for value in [*values, *values[:10_000]]:
        mine.add(value)
    for value in values[:5000]:
        theirs.add(value)
    assert len(mine) <= 2000
    assert mine.repeated() == pytest.approx(10_000, rel=0.15)
    assert mine.shared_with(theirs) == pytest.approx(10_000, rel=0.15)


def test_the_same_seed_gives_the_same_profile(tmp_path: Path):
    rows = [{"text": prose(i, 5 + i % 50)} for i in range(6000)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    first = profile_dataset(path)
    assert first == profile_dataset(path, seed=0)
    other = profile_dataset(path, seed=1)
    assert other.lengths is not None
    assert first.lengths is not None
    assert other.lengths.percentiles != first.lengths.percentiles
    assert other.lengths.mean == first.lengths.mean  # of all rows
    # Hashes of strings differ between processes; what is printed may not.
    code = (
        "import json, sys; from ftadvisor.sources.datasets import profile_dataset as p;"
        " print(json.dumps(p(sys.argv[1]).as_dict()))"
    )
    printed = {
        subprocess.check_output(
            [sys.executable, "-c", code, str(path)], env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert json.loads(printed.pop()) == json.loads(json.dumps(first.as_dict()))


def test_a_reservoir_takes_every_row_with_the_same_probability():
    taken = np.zeros(100)
    for seed in range(2000):
        reservoir = Reservoir(seed, rows=10)
        for index in range(100):
            if index == reservoir.next:
                reservoir.offer(index, str(index), 1.0)
        rows = [int(row.text) for row in reservoir.rows()]
        assert len(set(rows)) == 10
        taken[rows] += 1
    # Binomial with mean 200 and deviation 13: five deviations of a hundred rows.
    assert taken.min() > 130
    assert taken.max() < 270


@given(sampled=st.integers(1, 5000), data=st.data())
def test_a_share_s_interval_holds_it(sampled: int, data: st.DataObject):
    share = share_of(data.draw(st.integers(0, sampled)), sampled)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_classes_are_counted_up_to_a_thousand(tmp_path: Path):
    rows = [{"text": f"row {i}", "label": "ab"[i % 4 == 0]} for i in range(8)]
    assert profiled(tmp_path, rows).class_counts == {"a": 6, "b": 2}
    several = profiled(
        tmp_path, [{"text": "x", "labels": ["p", "q"]}, {"text": "y", "labels": [1]}]
    )
    assert several.class_counts == {"p": 1, "q": 1, "1": 1}
    many = profiled(tmp_path, [{"text": f"row {i}", "label": i} for i in range(1500)])
    assert len(many.class_counts) == 1001
    assert many.class_counts["(other)"] == 500


def test_tokens_from_characters_state_their_interval(tmp_path: Path):
    found = profiled(tmp_path, [{"text": "abcd" * 25}, {"text": "abcd" * 75}]).lengths
    assert found is not None
    assert (found.characters_per_token, found.tokenizer) == (CHARACTERS_PER_TOKEN, None)
    assert (found.mean, found.mean_low, found.mean_high) == pytest.approx((50, 35, 65))
    assert found.percentiles[50] == 25
    assert found.percentiles[100] == 75
    assert found.truncated[128] == 0
    assert found.padding_waste[1] == pytest.approx(0)
    # Of two rows, three batches of two in four are as long as the longer one.
    assert found.padding_waste[2] == pytest.approx(1 - 50 / (0.25 * 25 + 0.75 * 75))


def test_other_scripts_take_more_tokens(tmp_path: Path):
    chinese = profiled(tmp_path, [{"text": "你好世界" * 20}])
    russian = profiled(tmp_path, [{"text": "привет мир " * 20}])
    german = profiled(tmp_path, [{"text": "Füße und Bäume " * 20}])
    assert (chinese.non_latin_share, russian.non_latin_share, german.non_latin_share) == (1, 1, 0)
    for found in (chinese, russian):
        assert found.lengths is not None
        assert found.lengths.characters_per_token == 2.0
        assert found.lengths.mean_high == pytest.approx(1.5 * found.lengths.mean)
    assert non_latin_share([Sampled("1 + 1", 5)]) == 0


@given(st.floats(0, 1))
def test_characters_per_token_lie_between_the_scripts(share: float):
    ratio, error = characters_per_token(share)
    assert 2.0 <= ratio <= 4.0
    assert 0.3 - 1e-9 <= error <= 0.5 + 1e-9


def test_a_pair_s_length_is_that_of_one_sequence(tmp_path: Path):
    row = {"prompt": "p" * 400, "chosen": "c" * 400, "rejected": "r" * 1200}
    found = profiled(tmp_path, [row]).lengths
    assert found is not None
    assert found.mean == (400 + 800) / 4
    prompt = said("user", "p" * 400)
    row = {
        "prompt": "p" * 400,
        "chosen": [prompt, said("assistant", "c" * 399)],
        "rejected": [prompt, said("assistant", "r" * 1199)],
    }
    repeated = profiled(tmp_path, [row]).lengths
    assert repeated is not None
    assert repeated.mean == found.mean


@given(
    st.lists(st.floats(1, 1e5), min_size=1, max_size=60).map(sorted),
)
def test_statistics_of_batches_keep_their_order(lengths: list[float]):
    waste = list(padding_waste(lengths).values())
    assert all(0 <= a <= b + 1e-9 <= 1 for a, b in pairwise(waste))
    gains = list(packing_gain(lengths).values())
    assert all(1 - 1e-9 <= a <= b + 1e-9 for a, b in pairwise(gains))
    found = list(percentiles(lengths, lengths[-1]).values())
    assert found == sorted(found)


def tokenizer_of_words(folder: Path) -> None:
    """One token a word."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))


def test_a_tokenizer_that_is_at_hand_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer_of_words(tmp_path / "model")
    path = jsonl(tmp_path / "rows.jsonl", [{"text": prose(i, 10 + i % 5)} for i in range(500)])
    found = profile_dataset(path, tokenizer=tmp_path / "model").lengths
    assert found is not None
    assert found.tokenizer == str(tmp_path / "model")
    assert found.mean == found.mean_low == found.mean_high == pytest.approx(12)
    assert found.percentiles[99] == 14
    cache = tmp_path / "hub"
    tokenizer_of_words(cache / "models--org--name" / "snapshots" / "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    cached = profile_dataset(path, tokenizer="org/name").lengths
    assert cached is not None
    assert (cached.tokenizer, cached.mean) == ("org/name", found.mean)


def test_a_tokenizer_on_a_sample_states_what_the_sample_leaves_open(tmp_path: Path):
    tokenizer_of_words(tmp_path / "model")
    rows = [{"text": prose(i, 5 + i % 40)} for i in range(5000)]
    found = profile_dataset(jsonl(tmp_path / "a.jsonl", rows), tokenizer=tmp_path / "model").lengths
    assert found is not None
    true = sum(5 + i % 40 for i in range(5000)) / 5000
    assert found.mean_low < true < found.mean_high
    assert (found.mean_high - found.mean_low) / found.mean < 0.02


def test_a_tokenizer_that_is_not_at_hand_leaves_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "abcd"}])
    (tmp_path / "tokenizer.json").write_text("{}")
    for tokenizer in ("org/absent", tmp_path / "absent", tmp_path):
        found = profile_dataset(path, tokenizer=tokenizer).lengths
        assert found is not None
        assert found.tokenizer is None


def test_estimate_and_profile_agree(tmp_path: Path):
    rows = [
        {"messages": [said("user", prose(i)), said("assistant", prose(-i, 9 + i % 80))]}
        for i in range(3000)
    ]
    path = jsonl(tmp_path / "rows.jsonl", [*rows, [1], {"messages": []}])
    found, workload = profile_dataset(path), read_workload(path, 2.0)
    lengths = found.lengths
    assert lengths is not None
    assert workload.num_examples == found.num_examples == 3000
    assert workload.mean_tokens == lengths.mean
    assert workload.deviation_tokens == lengths.deviation
    assert workload.longest_tokens == lengths.percentiles[100]
    assert workload.characters_per_token == lengths.characters_per_token
    assert workload.mean_tokens * (1 + workload.token_error) == pytest.approx(lengths.mean_high)
    answer = estimate("llama-7b", gpu="rtx3090", technique="lora", dataset=path)
    (sentence,) = [said_of for said_of in answer.assumptions if "rows.jsonl" in said_of]
    assert "3,000 examples" in sentence
    assert "1 rows that cannot be used are left out" in sentence


def test_estimate_counts_all_strings_where_columns_are_unknown(tmp_path: Path):
    path = jsonl(tmp_path / "rows.jsonl", [{"foo": "x" * 400, "bar": ["y" * 399], "n": 7}])
    assert read_workload(path, 1.0).mean_tokens == 200


def test_reading_is_imported_only_for_a_dataset():
    code = (
        "import sys; from ftadvisor import estimate; estimate('llama-7b', gpu='rtx3060');"
        " print(sorted({'numpy', 'csv', 'ftadvisor.sources.datasets'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


MEASURE = """
import json, re, sys, time
from ftadvisor.sources.datasets import profile_dataset

def peak():
    # Not getrusage's: that one begins at the parent's.
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read()).group(1))

path = sys.argv[1]
parse = json.JSONDecoder().raw_decode
start = time.process_time()
with open(path, encoding="utf-8") as file:
    for line in file:
        parse(line)
parsed = time.process_time() - start
start = time.process_time()
found = profile_dataset(path)
print(json.dumps({
    "parse_seconds": parsed, "profile_seconds": time.process_time() - start,
    "peak_bytes": peak(), "rows": found.num_rows,
    "file_bytes": found.num_bytes,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("characters", [200, 2000])
def test_a_large_file_in_little_memory_at_a_few_times_the_cost_of_parsing(
    tmp_path: Path, characters: int
):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(200_000_000 // characters):
            text = prose(i % 5000, characters // 7)
            file.write(json.dumps({"prompt": str(i), "completion": text}) + "\n")
    measured = json.loads(
        subprocess.check_output([sys.executable, "-c", MEASURE, str(path)], text=True)
    )
    assert measured["rows"] == 200_000_000 // characters
    # Hashes of 8 bytes a row, numpy, a block and its rows, the sample: 1 GB holds under 300 MB.
    grown = 8 * measured["rows"] * 1_000_000_000 / measured["file_bytes"]
    assert measured["peak_bytes"] + grown < 300e6
    # On a core that parses 160 MB/s of 200-character rows, 30 MB/s are five times as long.
    assert measured["profile_seconds"] < 7 * measured["parse_seconds"] + 2

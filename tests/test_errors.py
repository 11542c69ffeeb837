import json
import pickle
import time

import pytest

import ftadvisor
from ftadvisor import errors

GPUS = ["rtx-3060-12gb", "rtx-3090", "a100-40gb", "a100-80gb", "h100-sxm-80gb", "gtx-1060-6gb"]

EVERY_ERROR = [
    errors.FtadvisorError("It is broken."),
    errors.UnknownNameError("GPU", "rtx309", GPUS, "ftadvisor list gpus"),
    errors.AmbiguousNameError("GPU", "a100", ["a100-40gb", "a100-80gb"], "memory"),
    errors.InvalidSettingError.of("lora_r", 0, "be at least 1"),
    errors.UnsupportedError.of("model_type 'mamba'", "no attention is known", ["llama"]),
    errors.DataFileError("gpus.json", "rtx-3090", "memory_gib", "'24 GB' is no number", "24"),
    errors.ModelUnavailableError("meta-llama/Llama-3.1-8B is gated.", ["huggingface-cli login"]),
    errors.MissingExtraError("ftadvisor run", "run"),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_reads_as_json_survives_a_process_and_prints_on_one_line(error):
    body = json.loads(json.dumps(error.as_dict()))["error"]
    assert set(body) == {"kind", "message", "suggestions"}
    assert body["kind"] == error.kind
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.as_dict() == error.as_dict()
    assert str(again) == str(error)
    assert "\n" not in str(error)
    assert all(suggestion in str(error) for suggestion in error.suggestions)


def test_every_kind_of_error_is_public_and_has_its_own_kind():
    classes = {type(error) for error in EVERY_ERROR}
    assert len({cls.kind for cls in classes}) == len(classes)
    for cls in classes:
        assert getattr(ftadvisor, cls.__name__) is cls


def test_messages_say_what_to_do():
    assert str(EVERY_ERROR[1]) == (
        "No GPU is called 'rtx309' (`ftadvisor list gpus` shows all). Did you mean: rtx-3090?"
    )
    assert str(EVERY_ERROR[2]) == (
        "'a100' names 2 GPUs that differ in memory. Write one of: a100-40gb, a100-80gb"
    )
    assert str(EVERY_ERROR[3]) == "lora_r is 0: must be at least 1."
    assert str(EVERY_ERROR[5]) == (
        "gpus.json, row 'rtx-3090', field 'memory_gib': '24 GB' is no number. Write: 24"
    )
    assert str(EVERY_ERROR[7]) == (
        "ftadvisor run needs packages that are not installed. Run: pip install 'ftadvisor[run]'"
    )


def test_a_line_number_and_a_row_id_read_differently():
    assert "rows.jsonl, line 3:" in str(errors.DataFileError("rows.jsonl", 3, None, "no JSON"))
    assert (
        str(errors.DataFileError("rows.jsonl", None, None, "is empty")) == "rows.jsonl: is empty."
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rtx3060", "rtx-3060-12gb"),
        ("RTX 3090", "rtx-3090"),
        ("rtx390", "rtx-3090"),
        ("h100", "h100-sxm-80gb"),
        ("a100-80g", "a100-80gb"),
        ("rtx-3090-founders-edition", "rtx-3090"),
    ],
)
def test_the_nearest_name_comes_first(typed: str, meant: str):
    assert errors.near_misses(typed, GPUS)[0] == meant


def test_the_same_number_counts_more_than_the_spelling():
    names = ["rtx-4060-ti-8gb", "rtx-4080-super", "rtx-4090", "rtx-4090-laptop"]
    assert errors.near_misses("rtx4090-48gb", names)[:2] == ["rtx-4090", "rtx-4090-laptop"]
    assert errors.near_misses("mistrl-7b", ["mistral-3b", "mistral-7b"])[0] == "mistral-7b"


def test_nothing_near_gives_nothing():
    assert errors.near_misses("mi300x", ["rtx-3090"]) == []
    assert errors.near_misses("", GPUS) == []
    assert errors.near_misses("///", GPUS) == []


def test_hostile_values_stay_on_one_short_line():
    error = errors.UnknownNameError("model", "x\n\x1b[31m" * 10_000, ["llama-7b"])
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 200


def test_characters_that_changed_places():
    """However the name goes on: cards of one chip are told apart by their memory."""
    names = ["rtx-3090", "rtx-3070", "rtx-a6000", "rtx-3060-12gb", "rtx-3060-laptop", "rtx-3080-ti"]
    assert {*errors.near_misses("rtx3600", names)[:2]} == {"rtx-3060-12gb", "rtx-3060-laptop"}


def test_near_misses_among_a_thousand_names_are_quick():
    names = [f"family-{i}-{size}b" for i in range(200) for size in (1, 3, 7, 13, 70)]
    start = time.perf_counter()
    errors.near_misses("familly-7-13b" * 1000, names)
    assert time.perf_counter() - start < 0.5

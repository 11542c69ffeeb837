"""The reverse questions: every figure is `estimate`'s, and nothing larger fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvisor import Estimate, Fit, InvalidSettingError, UnknownNameError, estimate, fit
from ftadvisor.api.estimator import subject_from
from ftadvisor.api.largest_batches import largest_whole
from ftadvisor.api.largest_models import models_by_size
from ftadvisor.api.smallest_run import hopeless, judge, smallest
from ftadvisor.cli import main
from ftadvisor.sources.gpus import GpuMatch, all_gpus, find_gpu, match_gpu
from ftadvisor.sources.techniques import all_techniques, find_technique
from ftadvisor.sources.workloads import reference_workload

SENSIBLE = [t.id for t in all_techniques() if t.sensible]
GPUS = sorted((g for g in all_gpus() if g.has_bf16), key=lambda g: g.usable_bytes)


def again(e: Estimate, **changes: Any) -> Estimate:
    """The same question asked of `estimate`."""
    names = (
        "micro_batch_size", "gradient_accumulation_steps", "max_length", "longest_length",
        "gradient_checkpointing", "quantization",
    )  # fmt: skip
    options = {name: e.settings[name] for name in names}
    if e.num_gpus > 1:
        options |= {"num_gpus": e.num_gpus, "strategy": e.settings["strategy"]}
    return estimate(e.model, **{"gpu": e.gpu, "technique": e.technique, **options, **changes})


@pytest.mark.parametrize("gpu", ["rtx3060", "rtx4090", "t4", "h100-sxm"])
def test_no_larger_model_fits(gpu: str):
    found = fit(gpu=gpu)
    assert {row.technique for row in found.models} >= {"lora", "qlora", "full"}
    for row in found.models:
        assert row.fits is not None
        same = again(row.fits)
        assert (same.memory, same.verdict) == (row.fits.memory, "fits")
        assert row.fits.settings["micro_batch_size"] == 1
        if row.tight is not None:
            assert row.tight.num_params > row.fits.num_params
            assert again(row.tight).verdict == "tight"


@pytest.mark.parametrize("technique", ["lora", "qlora", "full"])
def test_every_larger_model_of_the_catalogue_was_looked_at(technique: str):
    row = fit(gpu="rtx3090", technique=technique).models[0]
    assert row.fits is not None
    options: dict[str, Any] = {"micro_batch_size": 1, "gradient_checkpointing": "full"}
    for found in models_by_size():
        if found.spec.num_params <= row.fits.num_params:
            break
        if found.spec.vocab_size:
            e = estimate(found.spec.id, gpu="rtx3090", technique=technique, **options)
            assert e.verdict != "fits"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SENSIBLE), st.sampled_from(GPUS), st.sampled_from(GPUS))
def test_more_memory_never_makes_the_largest_model_smaller(technique: str, a: Any, b: Any):
    small, large = sorted((a, b), key=lambda g: g.usable_bytes)
    sizes = [
        row.fits.num_params if row.fits else 0
        for gpu in (small, large)
        for row in fit(gpu=gpu.id, technique=technique).models[:1]
    ]
    assert sizes == sorted(sizes)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(models_by_size()),
    st.sampled_from(SENSIBLE),
    st.sampled_from(all_gpus()),
    st.sampled_from([1, 4, 16]),
)
def test_what_is_passed_over_does_not_fit(found: Any, name: str, gpu: Any, count: int):
    technique = find_technique(name)
    if not found.spec.vocab_size or (count > 1 and gpu.vendor == "apple"):
        return
    options = {"num_gpus": count}
    subject = subject_from(found, GpuMatch(gpu, None), None, options, reference_workload(None))
    if hopeless(subject, technique, count):
        try:
            judged = judge(smallest(subject, technique), technique)
        except InvalidSettingError:
            return
        assert judged.verdict == "does_not_fit"


@pytest.mark.parametrize(
    ("model", "gpu", "technique"),
    [
        ("llama3.1-8b", "rtx4090", "qlora"),
        ("llama3.1-8b", "rtx4090", "prompt_tuning"),
        ("llama-7b", "rtx3090", "lora"),
        ("gpt2", "rtx3060", "full"),
        ("bert-base", "t4", "lora"),
        ("t5-base", "rtx3060", "lora"),
    ],
)
def test_a_batch_fits_at_n_and_not_at_one_more(model: str, gpu: str, technique: str):
    (found,) = fit(model, gpu=gpu, technique=technique).batches
    assert found.lengths
    for cell in found.lengths:
        if cell.estimate is not None:
            same = again(cell.estimate)
            assert (same.memory, same.verdict) == (cell.estimate.memory, "fits")
            more = again(cell.estimate, micro_batch_size=cell.micro_batch_size + 1)
            assert more.verdict != "fits"
            at_most = again(cell.estimate, micro_batch_size=cell.tight_micro_batch_size + 1)
            assert at_most.verdict == "does_not_fit"
    sizes = [cell.micro_batch_size for cell in found.lengths]
    assert sizes == sorted(sizes, reverse=True)
    assert found.longest is not None
    assert found.longest.estimate is not None
    assert again(found.longest.estimate).verdict == "fits"
    one_more = found.longest.max_length + 1
    longer = {"max_length": one_more, "longest_length": one_more}
    try:
        verdict = again(found.longest.estimate, **longer).verdict
    except InvalidSettingError as error:
        verdict = str(error)
    assert verdict in ("tight", "does_not_fit") or "takes at most" in verdict


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["lora", "qlora", "ia3", "full"]), st.sampled_from(GPUS))
def test_the_largest_batch_shrinks_with_the_length(technique: str, gpu: Any):
    (found,) = fit("llama-3.2-1b", gpu=gpu.id, technique=technique).batches
    for sizes in (
        [cell.micro_batch_size for cell in found.lengths],
        [cell.tight_micro_batch_size for cell in found.lengths],
    ):
        assert sizes == sorted(sizes, reverse=True)


@given(st.integers(1, 50), st.integers(0, 10_000), st.integers(1, 5000))
def test_bisection_finds_the_last(least: int, last: int, room: int):
    most = least + room
    found = largest_whole(lambda n: n <= last, least, most)
    assert found == (min(last, most) if last >= least else 0)


def test_the_fewest_cards():
    found = fit("llama-3.1-70b", technique="full")
    assert found.cards
    order = [(e.num_gpus, e.gpu_usable_bytes) for e in found.cards]
    assert order == sorted(order)
    for e in found.cards[:6]:
        assert again(e).verdict == e.verdict == "fits"
        fewer = e.num_gpus - 1 if e.num_gpus <= 8 else e.num_gpus - 8
        if fewer > 1:
            for strategy in ("zero3", "fsdp"):
                one = again(e, num_gpus=fewer, strategy=strategy)
                assert one.verdict != "fits"


def test_the_smallest_card():
    found = fit("llama3.1-8b", technique="qlora")
    smallest_card, least = found.cards[0], find_gpu(found.cards[0].gpu or "").usable_bytes
    assert again(smallest_card).verdict == "fits"
    for gpu in all_gpus():
        if gpu.usable_bytes < least:
            assert again(smallest_card, gpu=gpu.id).verdict != "fits"
    given_two = fit("llama-2-13b", technique="lora", num_gpus=2)
    assert {e.num_gpus for e in given_two.cards} == {2}
    each = fit("llama-2-13b")
    assert [e.technique for e in each.cards] == SENSIBLE


def test_a_named_length_is_filled():
    (found,) = fit("llama-3.2-1b", gpu="rtx3090", technique="lora", max_length=8192).batches
    (cell,) = found.lengths
    assert cell.estimate is not None
    assert cell.estimate.settings["longest_length"] == cell.max_length == 8192
    (own,) = fit("llama-3.2-1b", gpu="rtx3090", technique="lora", micro_batch_size=4).batches
    assert own.lengths == ()
    assert own.longest is not None
    assert own.longest.micro_batch_size == 4


def test_objectives_get_the_smallest_batch_that_they_take():
    for objective, micro in (("kto", 2), ("grpo", 1), ("dpo", 1)):
        found = fit(gpu="rtx4090", technique="lora", objective=objective)
        assert found.models[0].fits is not None
        assert found.models[0].fits.settings["micro_batch_size"] == micro


def test_where_nothing_fits_there_is_a_ladder():
    found = fit("llama-2-13b", gpu="rtx3060", technique="lora")
    assert not found.something_fits
    changes = [r.change for r in found.remedies]
    assert "technique qlora (4-bit base)" in changes
    for remedy in found.remedies:
        options = {"gpu": "rtx3060", "technique": "lora"} | remedy.options
        run = {"micro_batch_size": 1, "gradient_checkpointing": "full"} | options
        e = estimate("llama-2-13b", **run)
        assert (e.verdict, e.memory.device_bytes) == (remedy.verdict, remedy.device_bytes)
    marked = [r.changes_objective for r in found.remedies]
    assert marked == sorted(marked)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, InvalidSettingError, "neither a model nor a GPU"),
    ({"gpu": "rtx3061"}, UnknownNameError, "rtx-3060"),
    ({"model": "lama-7b"}, UnknownNameError, "llama-7b"),
    ({"gpu": "rtx3060", "technique": "loar"}, UnknownNameError, "lora"),
    ({"gpu": "rtx3060", "technique": "full", "quantization": "nf4"}, InvalidSettingError, "nf4"),
    ({"gpu": "rtx3060", "technique": "full", "lora_r": 8}, InvalidSettingError, "lora_r"),
    ({"gpu": "rtx3060", "max_length": 0}, InvalidSettingError, "max_length"),
    ({"gpu": "t4", "precision": "bf16"}, InvalidSettingError, "fp16"),
    ({"model": "llama-7b", "max_length": 10**6}, InvalidSettingError, "takes at most"),
    ({"model": "llama-7b", "gpu": "t4", "max_length": 10**6}, InvalidSettingError, "at most"),
    ({"gpu": "rtx3060", "num_gpus": 0}, InvalidSettingError, "num_gpus"),
]


@pytest.mark.parametrize(("question", "kind", "word"), BAD)
def test_bad_questions_are_refused_by_name(
    question: dict[str, Any], kind: type[Exception], word: str
):
    with pytest.raises(kind) as caught:
        fit(**question)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("words", "code", "filled"),
    [
        (["--gpu", "rtx3060", "--technique", "lora"], 0, "models"),
        (["--model", "llama-7b", "--technique", "lora"], 0, "cards"),
        (["--model", "llama-7b", "--gpu", "rtx4090", "--technique", "lora"], 0, "batches"),
        (["--model", "llama-7b", "--gpu", "gtx1060", "--technique", "full"], 1, "remedies"),
    ],
)
def test_json(words: list[str], code: int, filled: str, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", *words, "--json"]) == code
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {
        "model", "gpu", "models", "cards", "tight_cards", "batches", "remedies", "assumptions",
    }  # fmt: skip
    assert record[filled]
    if filled == "remedies":
        assert set(record["remedies"][0]) == {
            "change", "options", "device_bytes", "verdict", "changes_objective",
        }  # fmt: skip


def test_errors_exit_with_two(capsys: pytest.CaptureFixture[str]):
    assert main(["fit"]) == 2
    assert main(["fit", "--gpu", "rtx3061", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["suggestions"]
    assert "Traceback" not in captured.err


def test_an_answer_is_a_typed_record():
    found = fit(gpu="rtx3060", technique="lora")
    assert type(found) is Fit
    assert json.loads(json.dumps(found.as_dict()))["gpu"] == match_gpu("rtx3060").gpu.id
    assert hash(found) == hash(fit(gpu="rtx3060", technique="lora"))

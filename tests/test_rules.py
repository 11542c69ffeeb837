"""Rules: each can hold and does in some situation; who wins; what a wrong file is answered."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_golden import CASES, asked

from ftadvisor import DataFileError, FtadvisorError, InvalidSettingError, UnknownNameError
from ftadvisor.advice.engine import LAYERS, holding, strength
from ftadvisor.advice.hyperparameters import hyperparameters
from ftadvisor.advice.quality import pooled_quality
from ftadvisor.api.recommender import recommend
from ftadvisor.api.situation import candidates, question_of, situation_of
from ftadvisor.schema.plan import Recommendation
from ftadvisor.schema.rule import Measure, Note, Objectives, Recommend, Sizes
from ftadvisor.schema.situation import Facts
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.rule_clauses import fact_values, never_holds
from ftadvisor.sources.rules import FILES, built_in_rules, find_rule, read_user_rules, rules_with
from ftadvisor.sources.yaml_files import dump_yaml

RULES = built_in_rules()
BY_ID = {rule.id: rule for rule in RULES}
SFT: dict[str, Any] = {"family": "decoder", "objective": "sft", "num_params": 7e9}
RAW: dict[str, Any] = {"family": "decoder", "objective": "cpt"}

# Situations beyond the golden ones: what they add, and the rules that only they reach.
MORE: list[tuple[dict[str, Any], list[str]]] = [
    ({**SFT, "objective": "grpo", "keep_abilities": True}, ["beta-grpo-keep"]),
    ({"family": "encoder", "objective": "distillation"}, ["distilbert"]),
    (
        {**SFT, "num_params": 1.6e9, "use_case": "classification"},
        ["gpt2xl-prompt"],
    ),
    ({**RAW, "keep_abilities": True}, ["llamapro-forget"]),
    (
        {**SFT, "use_case": "code", "num_examples": 110_000, "lora_r": 64, "technique": "lora"},
        ["lllf-ift-code", "lllf-rank-code", "alpha-r64"],
    ),
    ({**SFT, "technique": "lora", "global_batch_size": 256}, ["lwr-batch"]),
    ({**SFT, "technique": "miss", "use_case": "reasoning"}, ["miss-lora", "rank-miss"]),
    ({**SFT, "use_case": "reasoning", "num_examples": 200_000}, ["orca-math-qlora"]),
    (
        {
            "use_case": "classification", "family": "decoder", "size_class": "large",
            "examples_per_class": 500,
        },
        ["smaller-model-first"],
    ),
    ({"family": "decoder", "use_case": "alignment"}, ["objective-alignment"]),
    ({"family": "decoder", "use_case": "domain"}, ["objective-domain"]),
    ({"family": "decoder", "use_case": "chat", "has_labels": False}, ["objective-unlabelled"]),
    (
        {"family": "decoder", "use_case": "classification", "has_labels": False},
        ["objective-unlabelled-classes-unread"],
    ),
    (
        {"use_case": "alignment", "data_format": "preference", "goal": "quality"},
        ["reward-model-gains"],
    ),
    ({**SFT, "objective": "dpo"}, ["batch-preference-unknown"]),
    *(
        ({**SFT, "technique": "lora", "lora_r": r}, [f"alpha-r{r}"])
        for r in (1, 4, 8, 16, 32, 64, 128, 256)
    ),
    *(
        ({**SFT, "technique": name}, [rule])
        for name, rule in {
            "boft": "lr-boft", "delora": "lr-delora", "fourierft": "lr-fourierft",
            "hira": "lr-hira", "osf": "lr-osf", "c3a": "lr-peft-others", "road": "lr-road",
            "shira": "lr-shira", "vblora": "lr-vblora",
        }.items()
    ),
    *(
        ({"technique": name}, [f"rank-{name}"])
        for name in ("gralora", "hira", "randlora", "shira", "miss")
    ),
]  # fmt: skip


def fired(**facts: Any) -> set[str]:
    return {rule.id for rule in holding(RULES, Facts(**facts)).rules}


@cache
def fired_in_golden_cases() -> frozenset[str]:
    """Rules that hold in the golden cases, for any technique that is weighed there."""
    found: set[str] = set()
    for case in CASES:
        ask = {**asked(case["id"])}
        model = ask.pop("model", None)
        names = (ask.pop(name, None) for name in ("gpu", "technique", "objective"))
        try:
            situation = situation_of(None, *names, ask)
            questions = [
                question_of(situation, name) for name, _ in list(candidates(situation, model))[:1]
            ]
        except FtadvisorError:
            continue
        for q in questions:
            for fits in (True, False):
                facts = {f: getattr(q.facts, f) for f in Facts.__slots__}
                facts["fits_unquantized"] = fits
                found |= {r.id for r in holding(RULES, Facts(**facts)).rules}
            for technique in q.techniques:
                hyper = hyperparameters(q, technique.id, adapts=not technique.trains_base)
                found |= {r.id for r in hyper.verdicts.rules}
    return frozenset(found)


@pytest.mark.parametrize(("facts", "rules"), MORE, ids=lambda v: "-".join(v)[:60])
def test_a_situation_that_no_golden_case_has(facts: dict[str, Any], rules: list[str]):
    assert set(rules) <= fired(**facts)


@pytest.mark.parametrize("rule", [r for r in RULES if r.layer != "physics"], ids=lambda r: r.id)
def test_every_rule_holds_in_some_situation(rule: Any):
    assert rule.id in fired_in_golden_cases() | {id_ for _, ids in MORE for id_ in ids}


PHYSICS: dict[str, dict[str, Any]] = {
    "context-too-long": {"model": "bert-base-uncased", "use_case": "classification",
                         "mean_length": 500, "num_examples": 5000},
    "does-not-fit": {"model": "llama3.1-70b", "gpu": "rtx4090", "use_case": "chat"},
    "encoder-only-objective": {"model": "bert-base-uncased", "use_case": "classification"},
    "no-bf16": {"model": "llama3.2-1b", "gpu": "t4", "use_case": "chat"},
    "not-executable": {"model": "llama3.2-1b", "gpu": "rtx4090", "optim": "adamw_torch",
                       "technique": "galore"},
    "over-budget": {"model": "llama3.1-8b", "gpu": "any", "budget_usd": 0.5, "use_case": "chat"},
    "over-deadline": {"model": "llama3.1-8b", "gpu": "rtx4090", "deadline_hours": 1.5,
                      "use_case": "chat"},
    "quality-unknown": {"model": "llama3.2-1b", "gpu": "rtx4090", "use_case": "translation"},
    "quantized-base": {"model": "llama3.1-8b", "gpu": "rtx4090", "quantization": "gptq-int4"},
    "user-asked": {"model": "llama3.2-1b", "technique": "vera", "use_case": "chat"},
    "worse-here": {"model": "llama3.2-1b", "gpu": "rtx4090", "use_case": "chat"},
}  # fmt: skip


def test_physics_is_complete():
    assert set(PHYSICS) == {r.id for r in RULES if r.layer == "physics"}


@pytest.mark.parametrize("rule", PHYSICS)
def test_physics_is_said_where_it_holds(rule: str):
    if rule == "not-executable":
        with pytest.raises(InvalidSettingError):
            recommend(**PHYSICS[rule])
        return
    answer = recommend(**PHYSICS[rule])
    said = {r.rule for r in answer.reasons} | {r.rule for r in answer.rejected}
    assert rule in said


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.id)
def test_no_rule_is_unreachable_or_unsourced(rule: Any):
    for fact in {clause.fact for clause in rule.when}:
        assert never_holds([c for c in rule.when if c.fact == fact]) is None
    assert (rule.layer == "physics") == (not rule.when)
    assert rule.reason
    assert rule.source
    assert re.match(r"\d{4}", rule.date), rule.date
    for other in rule.contradicts:
        assert rule.id in BY_ID[other].contradicts, f"{other} does not know of {rule.id}"


def test_ids_are_unique_and_files_complete():
    assert len(BY_ID) == len(RULES)
    assert {f"{name}" for name in FILES} | {"goals.json"} == {
        path.name for path in (Path(__file__).parent.parent / "data" / "rules").iterdir()
    }


def test_every_fact_that_a_rule_may_ask_about_can_be_known():
    # What nobody sets makes a rule about it one that never holds.
    known: set[str] = {"fits_unquantized"}
    wish = {
        "use_case": "chat", "labels": True, "goal": "cost", "budget_usd": 5, "deadline_hours": 5,
        "languages": ["de"], "keep_abilities": True, "num_examples": 5000, "mean_length": 200,
        "data_format": "chat", "lora_r": 8, "quantization": "nf4", "global_batch_size": 8,
    }  # fmt: skip
    questions = [question_of(situation_of(None, "rtx4090", None, None, dict(wish)), "llama3.1-8b")]
    data = next(c["id"] for c in CASES if (c.get("data") or {}).get("format") == "labelled")
    ask = {**asked(data)}
    model = ask.pop("model", None) or "bert-base-uncased"
    names = (ask.pop(name, None) for name in ("gpu", "technique", "objective"))
    questions.append(question_of(situation_of(None, *names, ask), model))
    for q in questions:
        facts = hyperparameters(q, "lora", adapts=True).verdicts.facts
        known |= {name for name in Facts.__slots__ if getattr(facts, name) is not None}
    assert set(Facts.__slots__) - known <= {"duplicate_share", "examples_per_class", "num_classes"}


def test_recalled_rows_are_marked_where_they_are_given_as_reasons():
    answer = recommend("llama3.1-8b", gpu="rtx4090", use_case="chat", num_examples=5000)
    assert any(BY_ID[r.rule].evidence == "recalled" for r in answer.reasons)
    assert all(r.evidence == BY_ID[r.rule].evidence for r in answer.reasons)


SIZES = {
    "small": ({"full"}, "24 GB"),
    "medium": ({"full", "lora", "bottleneck"}, "A100 (40 GB)"),
    "large": ({"lora", "qlora", "bottleneck"}, "4 to 16"),
}
USE_CASES = {
    ("instruction", "small"): ({"full"}, {"small", "medium", "large"}),
    ("instruction", "medium"): ({"lora", "bottleneck"}, {"small", "medium", "large"}),
    ("instruction", "large"): ({"lora", "bottleneck"}, {"small", "medium", "large"}),
    ("chat", "large"): ({"lora"}, {"medium", "large"}),
    ("classification", "small"): ({"full", "lora", "bottleneck"}, {"small", "medium"}),
    ("generation", "medium"): ({"full", "lora", "prompt_tuning"}, {"medium", "large"}),
    ("multimodal", "large"): ({"lora", "bottleneck"}, {"medium", "large"}),
}
CHALLENGES: list[tuple[dict[str, Any], str]] = [
    ({"gpu_memory_gib": 12.0, "num_params": 8e9}, "seed-challenge-limited-hardware"),
    ({"has_labels": False}, "seed-challenge-no-labels"),
    ({"deadline_hours": 2.0}, "seed-challenge-long-training"),
    ({"goal": "time"}, "seed-challenge-long-training-goal"),
    ({"budget_usd": 5.0}, "seed-challenge-cloud-cost"),
    ({"goal": "cost"}, "seed-challenge-cloud-cost-goal"),
]


def seed(**facts: Any) -> list[Any]:
    rules = [r for r in RULES if r.id.startswith("seed-")]
    return list(holding(rules, Facts(**facts)).rules)


def effects(rules: list[Any], kind: type) -> list[Any]:
    return [e for r in rules for e in r.effects if isinstance(e, kind)]


@pytest.mark.parametrize("size", SIZES)
def test_size_and_hardware_tables(size: Any):
    techniques, hardware = SIZES[size]
    rules = seed(size_class=size)
    assert {n for e in effects(rules, Recommend) for n in e.techniques} == techniques
    assert any(hardware in e.sentence for e in effects(rules, Note))


@pytest.mark.parametrize(("use_case", "size"), USE_CASES)
def test_use_case_table(use_case: Any, size: Any):
    techniques, sizes = USE_CASES[use_case, size]
    rules = [r for r in seed(use_case=use_case, size_class=size) if "use" in r.id]
    assert {n for e in effects(rules, Recommend) for n in e.techniques} == techniques
    assert {n for e in effects(rules, Sizes) for n in e.sizes} == sizes


@pytest.mark.parametrize(("facts", "rule"), CHALLENGES, ids=lambda v: str(v))
def test_challenges(facts: dict[str, Any], rule: str):
    assert rule in {r.id for r in seed(**facts)}


def test_every_cell_of_the_seed_is_in_these_tables():
    reached = {r.id for size in SIZES for r in seed(size_class=size)}
    reached |= {r.id for use, size in USE_CASES for r in seed(use_case=use, size_class=size)}
    reached |= {id_ for _, id_ in CHALLENGES}
    assert reached == {r.id for r in RULES if r.id.startswith("seed-")}


METRICS = {
    "classification": {"accuracy", "f1"},
    "generation": {"perplexity", "bleu"},
    "summarization": {"rouge"},
    "translation": {"bleu", "meteor"},
    "chat": {"pairwise_comparison", "rating_scale", "ab_test"},
}


@pytest.mark.parametrize("use_case", METRICS)
def test_metrics_table(use_case: Any):
    found = effects(list(holding(RULES, Facts(use_case=use_case)).rules), Measure)
    assert METRICS[use_case] <= {m for e in found for m in e.metrics}


# Rules of a person's own.

QUESTION: dict[str, Any] = {
    "model": "llama3.1-8b", "gpu": "a100-sxm4-80gb", "use_case": "chat", "num_examples": 5000,
    "mean_length": 300,
}  # fmt: skip


def own(tmp_path: Path, *rules: dict[str, Any]) -> str:
    rows = [{"when": {}, "reason": "so we do it here", **rule} for rule in rules]
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml({"rules": rows}))
    return str(path)


def answer(tmp_path: Path, *rules: dict[str, Any], **more: Any) -> Recommendation:
    return recommend(**QUESTION, **more, rules=own(tmp_path, *rules))


def says(answer: Recommendation, *words: str) -> bool:
    return any(all(word in w for word in words) for w in answer.warnings)


def test_two_rules_of_equal_strength_that_contradict_are_reported(tmp_path: Path):
    found = answer(
        tmp_path,
        {"id": "fast", "effects": [{"set": {"learning_rate": 3e-4}}]},
        {"id": "slow", "effects": [{"set": {"learning_rate": 3e-5}}]},
    )
    assert says(found, "contradict", "learning_rate", "fast", "slow")


def test_an_own_setting_is_followed_and_names_what_it_overrides(tmp_path: Path):
    found = answer(tmp_path, {"id": "mine", "effects": [{"set": {"learning_rate": 3e-5}}]})
    assert found.plan is not None
    assert found.plan.settings["learning_rate"] == 3e-5
    assert "lr-lora-decoder" in next(r for r in found.reasons if r.rule == "mine").overrides


def test_an_own_setting_is_not_moved_by_a_weaker_bound(tmp_path: Path):
    found = answer(tmp_path, {"id": "mine", "effects": [{"set": {"learning_rate": 5e-3}}]})
    assert found.plan is not None
    assert found.plan.settings["learning_rate"] == 5e-3
    assert says(found, "mine", "overrides", "lllf-lr")


def test_an_own_bound_has_the_last_word(tmp_path: Path):
    bound = {"limit": {"learning_rate": {"at_most": 2e-6}}}
    found = answer(tmp_path, {"id": "mine", "effects": [bound]}, technique="lora")
    assert found.plan is not None
    assert found.plan.settings["learning_rate"] == 2e-6


@pytest.mark.parametrize(
    ("name", "value"),
    [("packing", False), ("gradient_checkpointing", "full"), ("optim", "adafactor")],
)
def test_an_own_rule_decides_what_is_searched_otherwise(name: str, value: Any, tmp_path: Path):
    found = answer(tmp_path, {"id": "mine", "effects": [{"set": {name: value}}]})
    assert found.plan is not None
    assert found.plan.settings[name] == value


def test_an_own_advice_against_the_usual_technique(tmp_path: Path):
    usual = recommend(**QUESTION).plan
    assert usual is not None
    found = answer(tmp_path, {"id": "mine", "effects": [{"avoid": [usual.technique]}]})
    assert found.plan is not None
    assert found.plan.technique != usual.technique
    assert says(found, "mine", "advises against", usual.technique)
    assert {r.technique: r.rule for r in found.rejected}[usual.technique] == "mine"


def test_an_own_recommendation_outranks_published_advice_against_it(tmp_path: Path):
    rule = {"id": "mine", "effects": [{"recommend": ["bottleneck"]}]}
    found = answer(tmp_path, rule)
    assert says(found, "mine", "recommends bottleneck", "adapters-latency")
    assert "adapters-latency" not in {r.rule for r in found.rejected}


def test_own_rules_for_and_against_one_technique(tmp_path: Path):
    found = answer(
        tmp_path,
        {"id": "for", "effects": [{"recommend": ["dora"]}]},
        {"id": "against", "effects": [{"avoid": ["dora"]}]},
    )
    assert says(found, "contradict", "dora", "for", "against")


def test_an_own_comparison_stands_in_the_place_of_published_ones(tmp_path: Path):
    quality = {"technique": "full", "versus": "lora", "points": 30, "spread": 1}
    rule = {"id": "mine", "effects": [{"quality": quality}]}
    question = {**QUESTION, "model": "llama3.2-1b", "goal": "quality"}
    found = recommend(**question, rules=own(tmp_path, rule))
    assert found.plan is not None
    assert found.plan.technique == "full"
    assert says(found, "mine", "+30.0 points", "overrides")


def test_own_objectives_of_equal_strength_are_reported(tmp_path: Path):
    found = answer(
        tmp_path,
        {"id": "a", "effects": [{"objective": ["clm"]}]},
        {"id": "b", "effects": [{"objective": ["sft"]}]},
    )
    assert says(found, "contradict", "objective")


def test_an_own_rule_with_a_known_id_replaces_that_rule(tmp_path: Path):
    path = own(tmp_path, {"id": "lr-lora-decoder", "effects": [{"note": "gone"}]})
    rules = rules_with(path)
    assert len(rules) == len(RULES)
    replaced = find_rule(rules, "lr-lora-decoder")
    assert (replaced.layer, replaced.reason) == ("user", "so we do it here")


def test_physics_outranks_every_wish(tmp_path: Path):
    found = recommend(
        "llama3.1-8b", gpu="rtx4060", use_case="chat",
        rules=own(tmp_path, {"id": "mine", "effects": [{"recommend": ["full"]}]}),
    )  # fmt: skip
    assert found.plan is None or found.plan.technique != "full"
    assert {r.technique: r.rule for r in found.rejected}["full"] == "does-not-fit"


def test_layers_go_before_detail_and_confidence():
    order = sorted(RULES, key=strength)
    assert [r.layer for r in order] == sorted((r.layer for r in RULES), key=LAYERS.index)
    assert LAYERS == ("physics", "user", "evidence", "convention")
    facts = Facts(family="decoder", objective="cpt", technique="lora", num_params=7e9)
    winner = holding(RULES, facts).setting("lora_r")
    assert winner is not None
    assert winner.rule.id == "lllf-rank"


def test_what_is_objected_to_nowhere_is_no_disagreement():
    found = recommend(**QUESTION)
    assert not says(found, "contradict each other")


GOOD: dict[str, Any] = {
    "id": "mine", "when": {"use_case": {"is": "chat"}}, "reason": "why",
    "effects": [{"recommend": ["lora"]}],
}  # fmt: skip
FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown key": ({"effect": []}, "effect", "effects"),
    "no text": ({"reason": 3}, "reason", "text"),
    "empty id": ({"id": ""}, "id", "short name"),
    "confidence": ({"confidence": "sure"}, "confidence", "high or medium or low"),
    "evidence": ({"evidence": "heard"}, "evidence", "recalled"),
    "contradicts": ({"contradicts": "lora"}, "contradicts", "list"),
    "when is a list": ({"when": []}, "when", "fact"),
    "unknown fact": ({"when": {"usecase": {"is": "chat"}}}, "when.usecase", "use_case"),
    "no condition": ({"when": {"use_case": "chat"}}, "when.use_case", "{is: value}"),
    "unknown operator": ({"when": {"num_examples": {"above": 3}}}, "when.num_examples.above",
                         "at_least"),
    "expression": ({"when": {"num_examples": {"at_least": "10 * 1000"}}},
                   "when.num_examples.at_least", "a number"),
    "unknown value": ({"when": {"use_case": {"is": "chatt"}}}, "when.use_case.is", "chat"),
    "number for a switch": ({"when": {"has_labels": {"is": 1}}}, "when.has_labels.is", "True"),
    "text for a number": ({"when": {"num_params": {"is": "7b"}}}, "when.num_params.is", "number"),
    "order of names": ({"when": {"use_case": {"below": 3}}}, "when.use_case.below", "is or in"),
    "in without list": ({"when": {"goal": {"in": "cost"}}}, "when.goal.in", "list"),
    "known is no switch": ({"when": {"goal": {"known": "yes"}}}, "when.goal.known", "true"),
    "never: bounds": ({"when": {"num_examples": {"at_least": 10, "below": 5}}},
                      "when.num_examples", "together"),
    "never: unknown and something": ({"when": {"goal": {"known": False, "is": "cost"}}},
                                     "when.goal", "together"),
    "never: no value left": ({"when": {"goal": {"is": "cost", "not_in": ["cost"]}}},
                             "when.goal", "together"),
    "effects are no list": ({"effects": {"recommend": ["lora"]}}, "effects", "list"),
    "unknown effect": ({"effects": [{"recomend": ["lora"]}]}, "effects.1", "recommend"),
    "two effects in one": ({"effects": [{"recommend": ["lora"], "note": "x"}]}, "effects.1",
                           "only recommend"),
    "unknown technique": ({"effects": [{"avoid": ["lorra"]}]}, "effects.1.avoid", "lora"),
    "quality without spread": ({"effects": [{"quality": {"technique": "lora", "versus": "full",
                                "points": 1}}]}, "effects.1.quality", "spread"),
    "quality of itself": ({"effects": [{"quality": {"technique": "lora", "versus": "lora",
                           "points": 1, "spread": 1}}]}, "effects.1.quality", "itself"),
    "quality in text": ({"effects": [{"quality": {"technique": "lora", "versus": "full",
                         "points": "1", "spread": 1}}]}, "effects.1.quality", "points"),
    "misspelt setting": ({"effects": [{"set": {"lerning_rate": 1e-4}}]}, "effects.1.set",
                         "learning_rate"),
    "value of a setting": ({"effects": [{"set": {"learning_rate": "high"}}]}, "effects.1.set",
                           "a number above 0"),
    "what is searched": ({"effects": [{"set": {"micro_batch_size": 4}}]}, "effects.1.set",
                         "no setting of a rule"),
    "two settings": ({"effects": [{"set": {"lora_r": 8, "lora_alpha": 8}}]}, "effects.1.set",
                     "one setting"),
    "bounds of a name": ({"effects": [{"limit": {"optim": {"at_most": 3}}}]}, "effects.1.limit",
                         "no number"),
    "bounds crossed": ({"effects": [{"limit": {"lora_r": {"at_least": 9, "at_most": 3}}}]},
                       "effects.1.limit", "above at_most"),
    "unknown objective": ({"effects": [{"objective": ["stf"]}]}, "effects.1.objective", "sft"),
    "metrics in one text": ({"effects": [{"measure": "f1"}]}, "effects.1.measure", "list"),
    "first try without sign": ({"effects": [{"first_try": "prompting"}]}, "effects.1.first_try",
                               "sign"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rule_is_refused_with_file_row_and_field(fault: str, tmp_path: Path):
    change, field, write = FAULTS[fault]
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml([{**GOOD, "id": "first"}, {**GOOD, **change}]))
    with pytest.raises(DataFileError) as refusal:
        read_user_rules(path)
    error = refusal.value
    assert error.file == "mine.yaml"
    assert error.row == change.get("id", "mine")
    assert error.field == field
    assert write in str(error), str(error)


@pytest.mark.parametrize("name", ["id", "when", "effects", "reason"])
def test_what_a_rule_needs(name: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml([{k: v for k, v in GOOD.items() if k != name}]))
    with pytest.raises(DataFileError, match="missing"):
        read_user_rules(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rules: 3",
        "rules: []",
        "- lora",
        "- id: a\n  id: b",
        "- {id: a, when: {}, reason: !!python/object/apply:os.system ['true'], effects: []}",
        "!!python/object/new:os.system ['true']",
        "- &a {id: a}\n- *a",
        "- {id: [",
        "\x00",
    ],
)
def test_what_is_no_list_of_rules(text: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataFileError, match=re.escape("mine.yaml")):
        read_user_rules(path)


def test_the_same_id_twice(tmp_path: Path):
    with pytest.raises(DataFileError, match="twice"):
        read_user_rules(Path(own(tmp_path, GOOD, GOOD)))


def test_a_file_that_is_not_there():
    with pytest.raises(InvalidSettingError, match="rules file"):
        rules_with("/nowhere/mine.yaml")


def test_a_rule_is_found_by_its_id_or_near_it():
    assert find_rule(RULES, "qlora-mem").id == "qlora-mem"
    with pytest.raises(UnknownNameError, match="qlora-mem"):
        find_rule(RULES, "qlora-memory")


def test_numbers_are_read_as_people_write_them(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "- id: mine\n  when: {num_params: {at_least: 7e9}}\n  reason: why\n"
        "  effects: [{set: {learning_rate: 2e-4}}]\n"
    )
    (rule,) = read_user_rules(path)
    assert rule.when[0].value == 7e9
    assert rule.effects[0] == ("learning_rate", 2e-4)


def test_what_evidence_is_used_is_counted():
    # Of published comparisons at least three in four were read at their source.
    kinds = Counter(r.evidence for r in RULES if r.layer == "evidence")
    assert kinds["recalled"] <= sum(kinds.values()) / 4


def test_techniques_that_nobody_joins_to_lora_are_unknown():
    verdicts = holding(RULES, Facts(use_case="translation", family="encdec", objective="seq2seq"))
    assert "vblora" not in pooled_quality(verdicts).standings


def test_objectives_of_rules_can_be_executed():
    named = {o for r in RULES for e in r.effects if isinstance(e, Objectives) for o in e.objectives}
    assert "ppo" not in named
    assert named <= set(fact_values()["objective"])


def test_files_say_what_they_are():
    for name in FILES:
        content = read_json(f"rules/{name}")
        assert content["about"]
        assert json.dumps(content)

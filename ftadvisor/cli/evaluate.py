"""`ftadvisor eval`: how good a trained model or an adapter is."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import text, whole
from ftadvisor.errors import InvalidSettingError

OPTIONS = Group(
    "What is evaluated",
    (
        Option("dataset", text, "FILE", "Rows that it was not trained on.", also=("data",)),
        Option(
            "objective", text, "O",
            "What it was trained for: sft, clm, seq_cls ... (default: what plan.yaml there says).",
        ),
        Option(
            "metrics", text, "NAME",
            "Only these: accuracy, f1, mcc, perplexity, bleu, chrf, rouge, meteor, exact_match, "
            "reward_accuracy, eval_loss ... (default: all that the objective has).",
            many=True,
        ),
        Option(
            "eval_answers", whole, "N", "Prompts that are answered at most (default: 64; 0: none)."
        ),
        Option("max_length", whole, "N", "Longest example in tokens, for a model without a plan."),
        Option("precision", text, "P", "As of run, for a model without a plan."),
        Option(
            "reward_model", text, "DIR",
            "What scores answers (grpo, rloo): what a run with --objective reward left.",
        ),
        Option(
            "reward_function", text, "MODULE:FUNCTION",
            "Instead of it a Python function, as of run; its module is executed.",
        ),
        Option("seed", whole, "N", "Of the sample of prompts and of the intervals (default: 0)."),
    ),
)  # fmt: skip


def run(given: dict[str, Any]) -> int:
    """Evaluate and print; 0."""
    for name, example in (("model", "eval out --dataset test.jsonl"), ("dataset", "--dataset F")):
        if name not in given:
            raise InvalidSettingError(f"{name} is missing.", [f"{example}"])
    from ftadvisor import api
    from ftadvisor.render.evaluation import evaluation_document

    as_json = given.pop("json", False)
    with said_aside():
        found = api.evaluate(given.pop("model"), **given)
    print_answer(found, lambda: evaluation_document(found), as_json=as_json)
    return 0


COMMAND = Command(
    name="eval",
    summary="How good a trained model or an adapter is, with intervals; an adapter beside its "
    "base. Needs pip install 'ftadvisor[run]'.",
    usage="eval MODEL_OR_ADAPTER --dataset FILE [--metrics NAME ...] [options]",
    arguments=(
        Argument(
            "model",
            "MODEL_OR_ADAPTER",
            "A directory that `ftadvisor run` wrote, an adapter's directory, or a model.",
        ),
    ),
    groups=(OPTIONS, Group("Output", (JSON,))),
    examples=(
        ("ftadvisor eval out --dataset test.jsonl", "how good is what was trained?"),
        (
            "ftadvisor eval qwen3-0.6b --dataset test.jsonl --objective sft --metrics perplexity",
            "how good is the model as it is?",
        ),
    ),
    run=run,
    details="Every metric has a 90 % interval, by drawing the rows anew a thousand times. An "
    "adapter is switched off for the figures before. Answers are drawn greedily.",
)

"""Rows of preferences and of prompts, in the forms that TRL documents (its dataset_formats)."""

from __future__ import annotations

from typing import Any

from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import conversation
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.datasets.blocks import Fault
from ftadvisor.sources.datasets.examples import ROLES
from ftadvisor.sources.datasets.formats import VERDICTS, Layout

Row = dict[str, Any]
POLICY = ("grpo", "rloo")
"""Objectives that answer prompts, and learn from what a reward says of the answers."""
PREFERRING = ("dpo", "kto", "orpo", "reward")
TAKEN = frozenset(
    ("prompt", "prompts", "completion", "completions", "completion_ids", "chosen", "rejected",
     "messages", "image", "images", "tools", "trainer_state", "log_extra", "log_metric")
)  # fmt: skip
"""Columns that mean something to TRL's trainers: a reward function is not given them."""


def check_batch(objective: str, settings: Settings, num_prompts: int) -> None:
    """Raise InvalidSettingError for fewer prompts than one batch takes.

    TRL's sampler drops what does not fill a batch (trl 1.16 trainer/utils.py, RepeatSampler): no
    step would be made, and the run would look done.
    """
    answers = settings.micro_batch_size * settings.gradient_accumulation_steps * settings.num_gpus
    needed = answers // settings.num_generations
    if num_prompts >= needed:
        return
    fits = num_prompts * settings.num_generations
    raise InvalidSettingError(
        f"objective {objective}: a batch is {answers:,} answers of {needed:,} prompts, and there"
        f" are {num_prompts:,}: TRL trains on full batches only.",
        ["more prompts", f"--global-batch-size of at most {fits}"],
    )


def pair(row: Row, layout: Layout) -> Row | Fault | None:
    """`prompt`, `chosen` and `rejected`: messages; text where no column is the prompt."""
    if layout.format != "preference":
        return None
    parts = {part.role: row.get(part.column) for part in layout.parts}
    chosen, rejected = parts["chosen"], parts["rejected"]
    if "prompt" not in parts and isinstance(chosen, str) and isinstance(rejected, str):
        return _texts(chosen, rejected)
    # Of whole conversations (UltraFeedback) the prompt is what both begin with.
    one, other = conversation.answer(chosen), conversation.answer(rejected)
    shared = 0
    while shared < min(len(one), len(other)) - 1 and one[shared] == other[shared]:
        shared += 1
    asked = one[:shared]
    if not asked or ROLES[one[0]["role"]]:
        given = parts.get("prompt")
        asked = conversation.question({}, given) + asked if given else asked
    if asked and asked[0]["role"] != "system":
        asked = conversation.system_of(parts) + asked
    if not asked:
        return Fault("has no prompt")
    if not all(ROLES[said[shared]["role"]] for said in (one, other)):
        return Fault("has no answer after what chosen and rejected begin with")
    return {"prompt": asked, "chosen": one[shared:], "rejected": other[shared:]}


def _texts(chosen: str, rejected: str) -> Row | Fault:
    """Two texts that begin alike, up to the last word that they share."""
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    start = chosen[: max(chosen.rfind(" ", 0, same), chosen.rfind("\n", 0, same)) + 1]
    found = {"prompt": start, "chosen": chosen[len(start) :], "rejected": rejected[len(start) :]}
    if not all(text.strip() for text in found.values()):
        return Fault(
            "has a chosen and a rejected text that share no beginning, or no prompt column"
        )
    return found


def verdict(row: Row, layout: Layout) -> Row | Fault | None:
    """`prompt`, `completion` and `label`; of a pair `prompt`, `chosen` and `rejected`."""
    if layout.format != "unpaired_preference" or layout.label is None:
        return pair(row, layout)
    found = conversation.completed(row, layout)
    said = row[layout.label]
    if not found["prompt"][-1]["content"]:
        return Fault("has no prompt")
    return {**found, "label": said if isinstance(said, bool) else VERDICTS[str(said).lower()]}


def judged_apart(rows: list[Row]) -> list[Row]:
    """Each pair as two answers with a label, one after the other."""
    found: list[Row] = []
    for row in rows:
        if "label" in row:
            found.append(row)
            continue
        rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
        for name, label in (("chosen", True), ("rejected", False)):
            found.append({**rest, "completion": row[name], "label": label})
    return found


def asked(row: Row, layout: Layout) -> Row | Fault | None:
    """`prompt`: messages that end before the answer; and the columns that TRL does not name."""
    beside = {name: value for name, value in row.items() if name not in TAKEN}
    match layout.format:
        case "prompts":
            made = conversation.prompted(row, layout)
            return {**beside, "prompt": made}
        case "preference":
            found = pair(row, layout)
        case "chat" | "instruction" | "prompt_completion" | "unpaired_preference":
            made = conversation.completed(row, layout)
            found = conversation.split_turn(made["messages"]) if "messages" in made else made
        case _:
            return None
    if found is None or isinstance(found, Fault):
        return found or Fault("has no question before an answer")
    if isinstance(found["prompt"], str) or not found["prompt"][-1]["content"]:
        return Fault("has no prompt")
    return {**beside, "prompt": found["prompt"]}

"""Whether training costs what the model could do before: perplexity on general text."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.evaluation.metrics import Tally, perplexity
from ftadvisor.execution.evaluation.scores import evaluating
from ftadvisor.execution.training import Training
from ftadvisor.sources.data_files import data_dir

TEXT = "general_text.txt"
"""Written for this check: plain prose on everyday subjects, a paragraph a piece."""


def general_perplexity(trainer: Any, of: Training, *, base: bool) -> Tally:
    """Of a language model, paragraph by paragraph."""
    losses: list[float] = []
    weights: list[float] = []
    # A processor of images holds its tokenizer.
    tokenizer = getattr(of.tokenizer, "tokenizer", of.tokenizer)
    cross_entropy = stack.torch.nn.functional.cross_entropy
    with evaluating(trainer, base=base) as model:
        for paragraph in paragraphs():
            encoded = tokenizer(
                paragraph, truncation=True, max_length=of.settings.max_length, return_tensors="pt"
            )
            # What an engine keeps on the CPU it computes with on the GPU.
            ids = encoded["input_ids"].to(trainer.args.device)
            if ids.shape[1] > 1:
                # Not the model's own loss: a mixture adds its routers', PEFT AdaLoRA's, and what
                # virtual tokens put before the text would make its first token count.
                logits = model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :]
                losses.append(float(cross_entropy(logits[:-1].float(), ids[0, 1:])))
                weights.append(float(ids.shape[1] - 1))
    return perplexity(losses, weights)


def paragraphs() -> list[str]:
    """The text's, each on one line."""
    text = (data_dir() / TEXT).read_text(encoding="utf-8")
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]

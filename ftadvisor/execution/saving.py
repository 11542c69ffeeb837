"""What a run leaves behind: the adapter or the model, with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.evaluation.answers import ends

LABELS = "labels.json"
"""The classes' names by number: an adapter's directory may hold no config.json, which Transformers
would take for a whole model's (5.23 models/auto/auto_factory.py line 314)."""


def stop_at_ends(model: Any, tokenizer: Any) -> None:
    """Let the saved model stop where it was taught to: the end token of the chat template, which a
    base model's own generation_config.json does not know.
    """
    config = getattr(model, "generation_config", None)
    if config is None or not getattr(tokenizer, "chat_template", None):
        return
    found = ends(getattr(tokenizer, "tokenizer", tokenizer), model)
    if len(found) > 1:
        config.eos_token_id = found


def save_model(trainer: Any, tokenizer: Any, output_dir: Path, labels: Sequence[str] = ()) -> None:
    """The trained model as others load it: PEFT's directory, or a whole model's.

    The tokenizer lies beside it, with the chat template that it was trained with; beside an adapter
    of a classifier the names of its classes.
    """
    # Of use again where the model answers.
    trainer.model.config.use_cache = True
    stop_at_ends(trainer.model, tokenizer)
    with virtual_tokens(trainer):
        trainer.save_model(str(output_dir))
    if not trainer.args.should_save:
        return
    tokenizer.save_pretrained(str(output_dir))
    if labels and isinstance(trainer.model, stack.peft.PeftModel):
        names = json.dumps(dict(enumerate(labels)), indent=2)
        (output_dir / LABELS).write_text(names + "\n", encoding="utf-8")
    # Pickled arguments with paths of this machine: checkpoints have them, a model needs none.
    (output_dir / "training_args.bin").unlink(missing_ok=True)


@contextmanager
def virtual_tokens(trainer: Any) -> Generator[None]:
    """What PEFT saves of virtual tokens its encoder puts out, which ZeRO-3 has divided: all
    processes must run it, and only the first one saves (peft 0.21.2 peft_model.py,
    get_prompt_embedding_to_save). It would wait for the others for ever.
    """
    model = trainer.model
    config = getattr(model, "active_peft_config", None)
    if not (trainer.is_deepspeed_enabled and config is not None and config.is_prompt_learning):
        yield
        return
    made = model.get_prompt_embedding_to_save(model.active_adapter)

    def ready(_: str) -> Any:
        return made

    model.get_prompt_embedding_to_save = ready
    try:
        yield
    finally:
        del model.get_prompt_embedding_to_save

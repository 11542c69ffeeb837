"""What a run leaves behind: the adapter or the model, with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_model(trainer: Any, tokenizer: Any, output_dir: Path) -> None:
    """The trained model as others load it: PEFT's directory, or a whole model's.

    The tokenizer lies beside it, with the chat template that it was trained with.
    """
    # Of use again where the model answers.
    trainer.model.config.use_cache = True
    trainer.save_model(str(output_dir))
    if not trainer.args.should_save:
        return
    tokenizer.save_pretrained(str(output_dir))
    # Pickled arguments with paths of this machine: checkpoints have them, a model needs none.
    (output_dir / "training_args.bin").unlink(missing_ok=True)

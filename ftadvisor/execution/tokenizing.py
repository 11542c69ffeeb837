"""The model's own tokenizer, with what training needs of it: a pad token, a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.errors import InvalidSettingError, ModelUnavailableError, UnsupportedError, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.loading import pretrained

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "Assistant: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{{ '\n' }}"
    "{% else %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""For tokenizers without a template: who speaks, in words; an answer ends with the end token."""
GENERATION = "{% generation %}"


class Tokenizing(NamedTuple):
    """A tokenizer that can be trained with."""

    tokenizer: Any
    said: tuple[str, ...]
    """What was set because the tokenizer had it not."""

    @property
    def marks_answers(self) -> bool:
        """Whether the chat template tells an answer's tokens from the others."""
        template = self.tokenizer.chat_template
        return isinstance(template, str) and GENERATION in template.replace("{%-", "{%")


def load_tokenizer(model: str, *, chat: bool, images: bool = False) -> Tokenizing:
    """The tokenizer of a checkpoint; `chat`: the examples are conversations, `images`: with images,
    which its processor reads.

    Raises ModelUnavailableError where there is none, InvalidSettingError where it has neither a
    pad token nor an end token.
    """
    if images:
        return _processor(model)
    try:
        tokenizer = pretrained(stack.transformers.AutoTokenizer, model)
    except UnsupportedError as error:
        raise ModelUnavailableError(
            f"{quoted(model)} has no tokenizer that Transformers can load.",
            ["tokenizer.json and tokenizer_config.json beside its config.json"],
        ) from error
    said = _pad(tokenizer, model)
    if chat and not tokenizer.chat_template:
        if tokenizer.eos_token is None:
            raise InvalidSettingError(
                f"The tokenizer of {quoted(model)} has neither a chat template nor an end token: "
                "an answer would have no end.",
                [f'"chat_template" in {Path(model) / "tokenizer_config.json"}'],
            )
        tokenizer.chat_template = PLAIN_TEMPLATE
        said.append("no chat template: the plain one (User: ... Assistant: ...) is set, and saved")
    return Tokenizing(tokenizer, tuple(said))


def _pad(tokenizer: Any, model: str) -> list[str]:
    """Set a pad token where there is none, and say so."""
    if tokenizer.pad_token is not None:
        return []
    if tokenizer.eos_token is None:
        raise InvalidSettingError(
            f"The tokenizer of {quoted(model)} has neither a pad token nor an end token: "
            "batches cannot be padded.",
            ['"pad_token" in its tokenizer_config.json'],
        )
    tokenizer.pad_token = tokenizer.eos_token
    return [f"no pad token: {tokenizer.eos_token} pads, which the loss leaves out"]


def _processor(model: str) -> Tokenizing:
    """A vision-language model's processor, which holds its tokenizer."""
    processor = pretrained(stack.transformers.AutoProcessor, model)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ModelUnavailableError(
            f"{quoted(model)} has no processor: what makes tokens of its images is missing.",
            ["a directory with the model's processor_config.json or preprocessor_config.json"],
        )
    if not processor.chat_template:
        raise InvalidSettingError(
            f"The processor of {quoted(model)} has no chat template: where an image's tokens go is"
            " its to say.",
            [f"chat_template.jinja in {model}"],
        )
    return Tokenizing(processor, tuple(_pad(tokenizer, model)))

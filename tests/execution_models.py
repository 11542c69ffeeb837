"""Models small enough to train in seconds: random weights, a tokenizer made on the spot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 600, "pad_token_id": 0}  # fmt: skip


def tokenizer() -> Any:
    from pydoc_data import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special)
    made.train_from_iterator(list(topics.topics.values())[:20], trainer)
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>",
    )  # fmt: skip
    found.chat_template = CHATML
    return found


def build(folder: Path) -> dict[str, Path]:
    """A decoder, an encoder and an encoder-decoder, each in a directory of its name."""
    import torch
    import transformers as t

    # Threads that wait for each other on a busy machine take ten times as long.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    t5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4,
          "vocab_size": 600, "pad_token_id": 0, "eos_token_id": 3,
          "decoder_start_token_id": 0}  # fmt: skip
    models = {
        "decoder": t.LlamaForCausalLM(
            t.LlamaConfig(**SIZES, **ids, num_key_value_heads=2, max_position_embeddings=1024)
        ),
        "encoder": t.BertModel(t.BertConfig(**SIZES)),
        "encdec": t.T5ForConditionalGeneration(t.T5Config(**t5)),
    }
    own = tokenizer()
    for name, model in models.items():
        model.save_pretrained(folder / name)
        own.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def without_dropout(model: Path, place: Path) -> Path:
    """The same model, whose losses do not depend on what is drawn."""
    copied = Path(shutil.copytree(model, place))
    config = json.loads((copied / "config.json").read_text())
    config |= {name: 0.0 for name in config if "dropout" in name and "classifier" not in name}
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} plus {i}?"},
                {"role": "assistant", "content": f"the sum is {2 * i}"},
            ]
        }
        for i in range(count)
    ]


def rows(name: str, count: int = 40) -> list[dict[str, Any]]:
    """Rows that the objective of this name learns from."""
    words = ("bad sad awful", "good nice happy")
    match name:
        case "sft":
            return chat(count)
        case "clm" | "cpt":
            return [{"text": f"{words[i % 2]} and the number {i}. " * 6} for i in range(count)]
        case "seq_cls":
            return [{"text": words[i % 2], "label": ["neg", "pos"][i % 2]} for i in range(count)]
        case "token_cls":
            tags = ["PER", "O", "O", "LOC"]
            return [
                {"tokens": ["Anna", "lives", "in", f"Paris{i}"], "ner_tags": tags}
                for i in range(count)
            ]
        case _:
            return [{"source": f"say {i}", "target": f"it is {i}"} for i in range(count)]

"""A LLaVA and a Qwen2-VL small enough to train in seconds, and pictures to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from execution_models import SIZES, tokenizer

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = ["<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
IDS = {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 2,
       "max_position_embeddings": 1024}  # fmt: skip


def seeing_tokenizer() -> tuple[Any, dict[str, int]]:
    own = tokenizer()
    own.add_special_tokens({"additional_special_tokens": TOKENS})
    own.chat_template = None
    return own, {name: own.convert_tokens_to_ids(name) for name in TOKENS}


def llava(folder: Path) -> Path:
    import torch
    import transformers as t

    torch.manual_seed(0)
    own, ids = seeing_tokenizer()
    text = t.LlamaConfig(**{**SIZES, **IDS, "vocab_size": len(own)})
    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=32,
    )  # fmt: skip
    config = t.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=ids["<image>"],
        vision_feature_layer=-1,
    )  # fmt: skip
    t.LlavaForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": 28, "width": 28}
    t.LlavaProcessor(
        t.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side), own, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen(folder: Path) -> Path:
    """Its processor is another matter: it asks for torchvision, for videos."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    own, ids = seeing_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = t.Qwen2VLConfig(
        text_config={**SIZES, **IDS, "vocab_size": len(own), "rope_parameters": rope},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    t.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    own.save_pretrained(folder)
    pictures = t.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)
    pictures.save_pretrained(folder)
    return folder


def qwen_processor(folder: Path) -> Any:
    """Its processor without the part that reads videos."""
    import transformers as t

    class Processor(t.Qwen2VLProcessor):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    return Processor(
        image_processor=t.Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=t.AutoTokenizer.from_pretrained(folder),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )


def picture(path: Path, colour: str) -> Path:
    from PIL import Image

    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (40, 40), colour).save(path)
    return path


def colours(place: Path, count: int = 20) -> list[dict[str, Any]]:
    """Pictures of one colour each, by paths from the data file's folder."""
    names = ("red", "blue")
    for name in names:
        picture(place / f"pictures/{name}.png", name)
    return [
        {"image": f"pictures/{names[i % 2]}.png", "question": f"Which colour, number {i}?",
         "answer": f"it is {names[i % 2]}"}
        for i in range(count)
    ]  # fmt: skip

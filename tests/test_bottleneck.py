"""Our own tuner against what PEFT's tuners promise, and against what `estimate` counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftadvisor import estimate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
t = pytest.importorskip("transformers")

LENGTH, WIDTH, LAYERS = 16, 64, 3
SIZES = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": LAYERS,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 200,
         "pad_token_id": 0}  # fmt: skip
GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "vocab_size": 200}
BART = {"d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "vocab_size": 200, "pad_token_id": 0}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": SIZES, "qwen3": {**SIZES, "head_dim": 16}, "gemma2": {**SIZES, "head_dim": 16},
    "mixtral": {**SIZES, **EXPERTS}, "gpt_oss": {**SIZES, **EXPERTS, "head_dim": 16},
    "qwen3_moe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "phi3": SIZES, "opt": {**SIZES, "ffn_dim": 128, "word_embed_proj_dim": WIDTH}, "phi": SIZES,
    "gpt_neox": SIZES, "falcon": SIZES, "starcoder2": SIZES, "gpt2": GPT, "gptj": {
        **GPT, "rotary_dim": 8}, "bloom": {"hidden_size": WIDTH, **GPT},
    "mpt": {"d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4, "vocab_size": 200},
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES, "roberta": SIZES, "electra": SIZES, "deberta-v2": SIZES, "modernbert": SIZES,
    "distilbert": {"dim": WIDTH, "hidden_dim": 128, "n_layers": LAYERS, "n_heads": 4,
                   "vocab_size": 200},
}  # fmt: skip
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "bart": BART, "mbart": BART,
    "t5": {"d_model": WIDTH, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_decoder_layers": 1,
           "num_heads": 4, "vocab_size": 200},
}  # fmt: skip
CONFIGS = {
    "AutoModelForCausalLM": CAUSAL,
    "AutoModelForSequenceClassification": ENCODERS,
    "AutoModelForSeq2SeqLM": SEQ2SEQ,
}
MODELS = [(cls, name) for cls, configs in CONFIGS.items() for name in configs]
FAMILIES = {
    "decoder": ("AutoModelForCausalLM", "CAUSAL_LM", "sft"),
    "encoder": ("AutoModelForSequenceClassification", "SEQ_CLS", "seq_cls"),
    "encdec": ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", "seq2seq"),
}


def config(placement: str, **options: Any) -> Any:
    from ftadvisor.execution.bottleneck import BottleneckConfig

    return BottleneckConfig(adapter_length=LENGTH, placement=placement, **options)


def logits(model: Any) -> Any:
    ids = torch.arange(5, 17)[None]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
@pytest.mark.parametrize(("cls", "name"), MODELS)
def test_follows_each_part_of_each_layer(cls: str, name: str, placement: str):
    """One after each feed-forward part, houlsby's one after each self-attention: identity at the
    start, and in the path of what the model puts out."""
    made = t.AutoConfig.for_model(name, **CONFIGS[cls][name])
    torch.manual_seed(0)
    model = getattr(t, cls).from_config(made)
    base = logits(model)
    adapted = peft.get_peft_model(model, config(placement))
    of_one = 2 * WIDTH * LENGTH + WIDTH + LENGTH
    layers = LAYERS * (2 if placement == "houlsby" else 1)
    assert adapted.get_nb_trainable_parameters()[0] == layers * of_one
    assert torch.allclose(logits(adapted), base, rtol=0, atol=1e-5)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.5)
    assert not torch.allclose(logits(adapted), base, rtol=0, atol=1e-4)
    with adapted.disable_adapter():
        assert torch.allclose(logits(adapted), base, rtol=0, atol=1e-5)


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_comes_back_as_peft_s_do(
    models: dict[str, Path], tmp_path: Path, family: str, placement: str
):
    cls, task, objective = FAMILIES[family]
    base = getattr(t, cls).from_pretrained(models[family])
    adapted = peft.get_peft_model(base, config(placement, task_type=task))
    own = {name: p for name, p in adapted.named_parameters() if "bottleneck" in name}
    for parameter in own.values():
        parameter.data.normal_(0, 0.1)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(
        getattr(t, cls).from_pretrained(models[family]), tmp_path
    )
    assert torch.equal(logits(again), logits(adapted))
    with pytest.raises(ValueError, match="not linear"):
        again.merge_and_unload()
    estimated = estimate(
        model=str(models[family]), technique="bottleneck", objective=objective, gpu="rtx3090",
        peft_config={"adapter_length": LENGTH, "placement": placement},
    )  # fmt: skip
    assert adapted.get_nb_trainable_parameters()[0] == estimated.num_trainable_params


def test_a_model_without_known_parts_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match="no feed-forward part is known by name"):
        peft.get_peft_model(model, config("pfeiffer"))
    with pytest.raises(ValueError, match="placement must be one of"):
        config("parallel")

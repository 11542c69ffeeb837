"""What one training program keeps alive, by version: what no config.json says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Facts about a training loop; `data/trainers.json` has each with the line that shows it."""

    id: str
    framework: str
    versions: str
    """The releases that the facts were read in."""
    model_code: Literal["transformers", "litgpt", "remote", "native"] = "transformers"
    """Whose modelling code runs: it decides which tensors a layer saves."""
    holds_outputs: bool = False
    """The model's output object (logits, cache) lives until backward has ended."""
    half_logits_held: bool = True
    """The caller still holds the half-precision logits while the loss makes its fp32 copy."""
    shift_copies_logits: bool = False
    """The loss shifts the logits, not the labels: one more fp32 copy for more than one sequence."""
    logits_upcast: bool = True
    """The loss works on an fp32 copy of the logits; False: in the logits' own dtype."""
    upcasts_no_logits: tuple[str, ...] = ()
    """Model types whose own loss leaves the logits in their dtype, `logits_upcast` or not."""
    loss_chunk_tokens: int = 0
    """The loss runs over chunks of this many tokens; 0: at once."""
    head_in_chunks: bool = False
    """With frozen base weights, the head too puts out its logits in those chunks."""
    cpu_kernels: bool = False
    """It runs on a processor, whose kernels keep other tensors than a GPU's: no file says so, the
    hardware does."""
    outputs_upcast: bool = False
    """The model's outputs are converted to fp32 before the loss (Lightning Fabric)."""
    outputs_end_with_step: bool = False
    """Held outputs, and the graph with them, are dropped after the step, not at the next loss."""
    holds_upcast_outputs: bool = False
    """The held logits are the fp32 copy."""
    kbit_adapters_half: bool = False
    """Adapters of a quantised base are cast to half precision."""
    prepares_kbit: bool = False
    """prepare_model_for_kbit_training: what is not quantised goes to fp32 (not under FSDP)."""
    kbit_embeddings_fp32: bool = False
    """After that preparation, embeddings and head stay fp32."""
    kbit_residual_fp32: bool = False
    """After that preparation, the residual stream is fp32."""
    quantizes_head: bool = False
    """The language-model head is quantised like the layers' matrices."""
    dequantizes_head_twice: bool = False
    """A quantised head's weights are dequantised to fp16 and cast, both alive in its backward."""
    kbit_saves_input: bool = False
    """bitsandbytes' 4-bit matmul keeps its input for backward (0.42.0 to 0.43.1)."""
    pads_lora_output: bool = False
    """A fused projection that is adapted only in part keeps its update, to scatter it."""
    longest_first: bool = False
    """The longest batch is the first one, before gradients and optimizer states exist."""
    repeats_kv: tuple[str, ...] = ()
    """Model types whose keys and values are expanded to all heads before the flash kernel."""
    eager_model_types: tuple[str, ...] = ()
    """Model types that run eager attention whatever is asked for."""
    keeps_cache: tuple[str, ...] = ()
    """Model types that fill their key-value cache under checkpointing too: it holds their fused
    q-k-v outputs until the outputs are dropped."""
    grouped_experts: bool = False
    """Experts run as grouped matrix products (Transformers 5); before, in a loop."""
    keeps_fused_qkv: bool = False
    """v stays a view of the fused q-k-v output, which is kept whole."""
    shares_lora_input: bool = False
    """Targets of one fused projection share one dropped-out input."""
    adapter_dtype: Literal["fp32", "weights"] = "fp32"
    """Dtype of adapters by default: fp32, or that of the base's weights."""
    fsdp_version: int = 1
    """Of torch's FSDP: 1 flattens a unit's parameters, 2 cuts each along its first dimension."""
    sharded_trainable_fp32: bool = False
    """Mixed precision under FSDP keeps trained parameters in fp32."""
    sharded_accumulation_unsharded: bool = False
    """Gradient accumulation under FSDP runs in no_sync: gradients stay unsharded."""
    flat_params_mixed: bool = False
    """FSDP wraps frozen and trained parameters in one flat parameter (use_orig_params)."""
    reentrant_checkpointing: bool = False
    checkpoints_within_units: bool = False
    """Checkpoints are put inside FSDP's units: no unit's forward runs again."""
    zero_engine: Literal["deepspeed", "fsdp"] = "deepspeed"
    """What runs where the strategy is called zero1 to zero3."""
    packing_masks: bool = False
    """Packed samples are kept apart: without flash attention by a mask over the whole batch."""
    loads_fp32: bool = False
    """Loads every base in fp32 unless told otherwise."""
    empties_cache: bool = False
    """Calls empty_cache every few steps."""
    moves_model: bool = True
    """Moves the model to the GPU after it has been adapted, buffers of adapters included."""
    evaluates: bool = False
    """Evaluation or generation runs inside the measured time."""
    compiled_loss: bool = False
    """torch.compile generates the loss: it reads the logits and writes their gradient."""
    selective_saves_products: bool = False
    """Selective checkpointing keeps the output of every second matrix, besides attention's."""
    norm_weighs_fp32: bool = False
    """RMSNorm multiplies by its weight before it casts back: where that trains, the factor that is
    kept is in fp32 (lit-gpt of 2023)."""
    low_precision_norm: bool = False
    """LayerNorm runs in the autocast dtype, not in fp32."""
    fused_rope: bool = False
    """With its fused norms come fused rotary embeddings."""
    lora_waits: bool = False
    """LoRA copies an index from the host in every layer, which waits for the GPU."""
    tf32: bool = False
    """fp32 products run in TF32 (torch's own default is full fp32)."""
    measured: bool = False
    """Published measurements of this program are among the rows that the model was checked on."""
    stand_in: bool = False
    """Stands for a program whose loop nobody has read."""
    defaults: dict[str, Any]
    """Settings that the program uses when nobody sets them."""
    objective_defaults: dict[str, dict[str, Any]]
    """Further ones, by objective."""

    @property
    def is_hugging_face(self) -> bool:
        """Whether Transformers' Trainer, or one made of it, runs the loop, through accelerate."""
        return any(name in self.framework for name in ("Trainer", "TRL"))

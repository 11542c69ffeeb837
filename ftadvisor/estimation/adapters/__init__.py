"""What a technique adds to a frozen base: trained parameters, buffers and kept tensors.

Trained parameters are counted exactly as PEFT 0.21 makes them. Kept tensors follow from each
tuner's forward: what autograd saves of every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.adapters import (
    dense,
    litgpt,
    low_rank,
    prompts,
    rotations,
    selective,
    shared_bases,
)
from ftadvisor.estimation.adapters.casts import with_casts
from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.adapters.targets import targets
from ftadvisor.estimation.adapters.traffic import Matrix, traffic, with_traffic
from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.numerics import Numerics
from ftadvisor.estimation.objectives import CLASSIFYING, NUM_LABELS
from ftadvisor.estimation.states import unpaged
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer

_PER_TARGET: Final[dict[str, Callable[[Target, Run], Cost]]] = {
    "lora": low_rank.lora,
    "rslora": low_rank.lora,
    "qlora": low_rank.lora,
    "dora": low_rank.dora,
    "adalora": low_rank.adalora,
    "ia3": low_rank.ia3,
    "gralora": low_rank.gralora,
    "delora": low_rank.delora,
    "deft": low_rank.deft,
    "lily": low_rank.lily,
    "miss": low_rank.miss,
    "bone": low_rank.miss,
    "loha": dense.loha,
    "lokr": dense.lokr,
    "hira": dense.hira,
    "fourierft": dense.fourierft,
    "waveft": dense.waveft,
    "glora": dense.glora,
    "peanut": dense.peanut,
    "osf": dense.osf,
    "shira": dense.shira,
    "vera": shared_bases.vera,
    "pvera": shared_bases.pvera,
    "randlora": shared_bases.randlora,
    "vblora": shared_bases.vblora,
    "unilora": shared_bases.unilora,
    "tinylora": shared_bases.tinylora,
    "adamss": shared_bases.adamss,
    "frod": shared_bases.frod,
    "oft": rotations.oft,
    "boft": rotations.boft,
    "road": rotations.road,
    "c3a": rotations.c3a,
    "psoft": rotations.psoft,
    "beft": selective.beft,
}
"""What each adapted matrix costs."""

_SHARED: Final[dict[str, Callable[[tuple[Target, ...], Run], Cost]]] = {
    "lily": low_rank.lily_shared,
    "vera": shared_bases.vera_shared,
    "pvera": shared_bases.vera_shared,
    "randlora": shared_bases.randlora_shared,
    "vblora": shared_bases.vblora_shared,
    "unilora": shared_bases.unilora_shared,
    "tinylora": shared_bases.tinylora_shared,
}
"""What all adapted matrices have in common, counted once."""

_LORA = frozenset({"lora", "rslora", "qlora"})
_ONCE: Final[dict[str, Callable[[Run], Cost]]] = {
    "prompt_tuning": prompts.prompt_tuning,
    "p_tuning": prompts.p_tuning,
    "trainable_tokens": selective.trainable_tokens,
}
_IN_SEQUENCE = frozenset({"prompt_tuning", "p_tuning"})
_PER_LAYER: Final = {
    "prefix_tuning": (prompts.prefix_tuning, prompts.prefix_tuning_kept),
    "bottleneck": (prompts.bottleneck, prompts.bottleneck_kept),
    "adaption_prompt": (prompts.adaption_prompt, prompts.adaption_prompt_kept),
    "adapter": (litgpt.adapter, litgpt.adapter_kept),
    "adapter_v2": (litgpt.adapter_v2, litgpt.adapter_v2_kept),
    "llamapro": (prompts.llamapro, prompts.llamapro_kept),
    "ln_tuning": (selective.ln_tuning, selective.ln_tuning_kept),
}


def adapter_bytes(
    model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer, tokens: Number
) -> AdapterBytes:
    """Trained parameters, buffers and kept tensors of a technique on a frozen base.

    `tokens` are those of a micro-batch; lora_r, micro_batch_size and max_length may be numpy
    arrays of one shape.

    Raises UnsupportedError for a technique that is not described, InvalidSettingError for target
    modules that the model does not have.
    """
    run = Run(model, settings, trainer, n, tokens)
    found = with_casts(_of_technique(run), run)
    head = classifier_params(model, settings)
    if not head:
        return found
    return found._replace(
        num_trainable_params=found.num_trainable_params + head, num_head_params=head
    )


def _of_technique(run: Run) -> AdapterBytes:
    model, settings, trainer = run.model, run.settings, run.trainer
    technique = settings.technique
    if technique in _ONCE:
        return _once(run)
    if technique in _PER_LAYER:
        return _per_layer(run)
    if trainer.model_code == "litgpt" and technique in _LORA:
        each = _summed([(b, litgpt.lora(b, run)) for b in model.blocks], run)
        return with_traffic(each, litgpt.adapted_matrices(run), run)
    if technique in _PER_TARGET:
        cost = _PER_TARGET[technique]
        found = targets(model, settings, trainer)
        each = _summed([(t.block, cost(t, run)) for t in found], run)
        each = each._replace(outside_attention_per_token=_outside_attention(found, cost, run))
        if technique in _SHARED:
            each = _with_shared(each, _SHARED[technique](found, run))
        return with_traffic(each, [Matrix(t.block, t.rows, t.columns) for t in found], run)
    raise UnsupportedError.of(f"technique {technique}", "its memory is not described", ("lora",))


def classifier_params(model: ModelSpec, settings: Settings) -> int:
    """Of a classifier's new head, which trains beside its adapter; 0 where there is none.

    PEFT 0.21 trains what is called `classifier` or `score` (peft_model.py, classifier_module_names;
    DistilBERT's `pre_classifier` ends so too). A decoder scores sequences without a bias
    (transformers 5.23 modeling_layers.py). Of NUM_LABELS classes; a reward model has one score.
    """
    if model.family == "encdec" or settings.objective not in CLASSIFYING:
        return 0
    h = model.hidden_size
    labels = 1 if settings.objective == "reward" else NUM_LABELS
    tokens, sequences = settings.objective == "token_cls", model.family == "encoder"
    dense = 0 if tokens or not model.dense_classifier else h * h + h
    return dense + labels * (h + 1 if tokens or sequences else h)


def _once(run: Run) -> AdapterBytes:
    technique = run.settings.technique
    cost = _ONCE[technique](run)
    virtual = run.option("num_virtual_tokens") if technique in _IN_SEQUENCE else 0
    layers = sum(b.num_layers for b in run.model.blocks if b.stream == "text")
    return AdapterBytes(
        num_trainable_params=cost.params,
        num_unpaged_params=unpaged(cost.params),
        buffers_bytes=0,
        saved_per_token=0,
        saved_per_token_per_layer=0,
        saved_bytes=cost.saved_bytes,
        saved_bytes_per_layer=cost.saved_bytes / layers,
        temporary_bytes=cost.temporary_bytes,
        backward_per_token=0,
        virtual_tokens=virtual,
    )


def _per_layer(run: Run) -> AdapterBytes:
    count, kept = _PER_LAYER[run.settings.technique]
    blocks = _adapted(run)
    costs = [(layers, kept(b, run)) for b, layers in blocks]
    apart: Number = 0
    if run.settings.technique == "adapter_v2":
        # The head's output before its scale.
        apart = run.n.head * run.model.vocab_size
    elif run.settings.technique == "adapter":
        apart = -litgpt.untouched(run)
    elif run.settings.technique == "adaption_prompt":
        apart = -prompts.unreached(run)
    t = traffic(run.settings.technique, run.settings.peft_config)
    adapted = sum(layers for _, layers in blocks)
    width = sum(layers * b.hidden_size for b, layers in blocks)
    return AdapterBytes(
        num_trainable_params=count(run).params,
        buffers_bytes=0,
        saved_per_token=sum(layers * c.saved_per_token for layers, c in costs) + apart,
        saved_per_token_per_layer=largest(*(c.saved_per_token for _, c in costs)),
        saved_bytes=sum(layers * c.saved_bytes for layers, c in costs),
        saved_bytes_per_layer=largest(*(c.saved_bytes for _, c in costs)),
        temporary_bytes=0,
        backward_per_token=0,
        virtual_tokens=0,
        kernels=t.kernels * adapted,
        moved_tensors=t.widths * adapted,
        tensor_per_token=run.compute * width / (adapted or 1),
    )


def _adapted(run: Run) -> list[tuple[Block, int]]:
    """Blocks and how many of their layers a technique of layers adapts."""
    technique = run.settings.technique
    if technique in ("adapter", "adapter_v2"):
        return litgpt.adapted_layers(run)
    if technique in ("bottleneck", "ln_tuning"):
        return [(b, b.num_layers) for b in run.model.blocks if b.stream != "image"]
    text = prompts.text_blocks(run)
    if technique == "prefix_tuning":
        return [(b, b.num_layers) for b in text]
    # The last layers, which are all of one block but in models of unusual make.
    adapted = prompts.new_blocks if technique == "llamapro" else prompts.adapted_layers
    return [(text[-1], adapted(run))]


def _summed(costs: list[tuple[Block, Cost]], run: Run) -> AdapterBytes:
    """All layers' costs; those of image towers at the towers' own number of tokens."""
    params: Number = 0
    buffers: Number = 0
    saved: Number = 0
    fixed: Number = 0
    unreached: Number = 0
    forward: Number = 0
    freed = source = 0
    layers: dict[int, tuple[Number, Number]] = {}
    for block, cost in costs:
        copies = 1 if block.shared else block.num_layers
        params = params + copies * cost.params
        buffers = buffers + copies * cost.buffers_bytes
        fixed = fixed + run.reads(block) * block.num_layers * cost.saved_bytes
        if cost.forward_per_token:
            forward = largest(forward, cost.forward_per_token)
            freed = largest(freed, cost.freed_per_token)
        if block.stream == "image":
            unreached = unreached + copies * cost.params
            patches = run.model.image_patches * run.settings.num_images
            images = run.settings.micro_batch_size * patches * block.num_layers
            fixed = fixed + cost.saved_per_token * images
            continue
        if block.stream == "source":
            # An encoder's tokens are not the decoder's, by which the others are multiplied.
            tokens = run.settings.micro_batch_size * run.settings.longest_length
            fixed = fixed + block.num_layers * cost.saved_per_token * tokens
            source = source + cost.saved_per_token
            continue
        saved = saved + block.num_layers * cost.saved_per_token
        per_token, once = layers.get(id(block), (0, 0))
        layers[id(block)] = (per_token + cost.saved_per_token, once + cost.saved_bytes)
    widest = list(layers.values()) or [(0, 0)]
    return AdapterBytes(
        num_trainable_params=params,
        buffers_bytes=buffers,
        saved_per_token=saved,
        saved_per_token_per_layer=largest(*(per_token for per_token, _ in widest)),
        saved_bytes=fixed,
        saved_bytes_per_layer=largest(*(once for _, once in widest)),
        temporary_bytes=largest(*(cost.temporary_bytes for _, cost in costs)),
        backward_per_token=largest(*(cost.backward_per_token for _, cost in costs)),
        forward_per_token=forward,
        freed_per_token=freed,
        saved_per_source_token=source,
        num_unpaged_params=_unpaged(costs),
        num_unreached_params=select(run.settings.num_images > 0, 0, unreached) if unreached else 0,
        virtual_tokens=0,
    )


def _outside_attention(
    found: tuple[Target, ...], cost: Callable[[Target, Run], Cost], run: Run
) -> Number:
    """What a layer's adapted matrices keep that are not its attention's, the fewest of all kinds of
    layers [bytes per token]."""
    kept: dict[int, Number] = {id(t.block): 0 for t in found if t.block.stream == "text"}
    for t in found:
        apart = t.linear.part not in ("attention", "cross_attention")
        if apart and id(t.block) in kept:
            kept[id(t.block)] = kept[id(t.block)] + cost(t, run).saved_per_token
    return smallest(*kept.values()) if kept else 0


def _unpaged(costs: list[tuple[Block, Cost]]) -> Number:
    small: Number = 0
    for block, cost in costs:
        known = cost.unpaged_params
        copies = 1 if block.shared else block.num_layers
        small = small + copies * (unpaged(cost.params) if known is None else known)
    return small


def _with_shared(each: AdapterBytes, shared: Cost) -> AdapterBytes:
    return each._replace(
        num_trainable_params=each.num_trainable_params + shared.params,
        buffers_bytes=each.buffers_bytes + shared.buffers_bytes,
        saved_bytes=each.saved_bytes + shared.saved_bytes,
    )

"""What ftadvisor adds to the libraries: the same training with it and with the shortest script.

python scripts/thinness.py [PAIRS]. Each of a pair is a process of its own, in turn; printed are the
medians of the ratios of their CPU seconds and of their peak memory, and the share of a step that
ftadvisor's callbacks take. Both do the same: no held-out rows are evaluated and no checkpoints are
written, which ftadvisor does unless it is told not to and the shortest script does not. The model
has random weights and a shape that makes a step long enough.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 60
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 4, "vocab_size": 600, "pad_token_id": 0, "bos_token_id": 2,
         "eos_token_id": 3, "max_position_embeddings": 512}  # fmt: skip
BOUNDS = {"cpu_seconds": 1.03, "peak_bytes": 1.02}
OURS = """
from ftadvisor import run
run(model="model", technique="lora", objective="sft", dataset="rows.jsonl", precision="fp32",
    micro_batch_size=4, gradient_accumulation_steps=1, max_length=128, max_steps={steps},
    learning_rate=1e-3, gradient_checkpointing="none", eval_share=0.0, save_steps=0,
    output_dir=OUT)
"""
SHORTEST = """
import json, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
rows = [json.loads(line) for line in open("rows.jsonl")]
model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained("model")
args = SFTConfig(
    output_dir=OUT, max_steps={steps}, per_device_train_batch_size=4, learning_rate=1e-3,
    max_length=128, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no",
    gradient_checkpointing=False, assistant_only_loss=True, disable_tqdm=True, report_to=[],
    dataloader_pin_memory=False, include_num_input_tokens_seen="non_padding",
)
trainer = SFTTrainer(
    model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"),
)
trainer.train()
trainer.save_model(OUT)
"""
CALLBACKS = """
import time
import ftadvisor.execution.run as run_module
spent, made = [0.0], run_module._callbacks
def timed(callback):
    for name in dir(callback):
        if name.startswith("on_") and name in vars(type(callback)):
            def clocked(*args, _real=getattr(callback, name), **options):
                start = time.perf_counter()
                try:
                    return _real(*args, **options)
                finally:
                    spent[0] += time.perf_counter() - start
            setattr(callback, name, clocked)
    return callback
run_module._callbacks = lambda *a, **k: [timed(callback) for callback in made(*a, **k)]
"""
SHARE = """
import json
found = json.load(open(OUT + "/report.json"))["measured"]
print(spent[0] / found["total_seconds"])
"""


def prepare(place: Path) -> None:
    """A model of random weights, its tokenizer, and 400 conversations."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import execution_models
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(place / "model")
    execution_models.tokenizer().save_pretrained(place / "model")
    execution_models.write_rows(place / "rows.jsonl", execution_models.chat(400))


def measured(code: str, place: Path, name: str) -> dict[str, float]:
    """CPU seconds and peak memory of one process that runs `code`."""
    tail = (
        "\nimport json, resource\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
        'print(json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime,'
        ' "peak_bytes": used.ru_maxrss * 1024}))\n'
    )
    text = f"OUT = {name!r}\n" + code.replace("{steps}", str(STEPS)) + tail
    return json.loads(said_by(text, place).splitlines()[-1])


def said_by(text: str, place: Path) -> str:
    """Standard output of a Python process in `place`."""
    root = str(Path(__file__).resolve().parent.parent)
    # Its runs are no measurements of the user's.
    own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": root, "FTADVISOR_HOME": str(place / "home")}
    environment = {**os.environ, **own}
    return subprocess.run(
        [sys.executable, "-c", text], cwd=place, env=environment, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ).stdout  # fmt: skip


def main() -> int:
    """Print the ratios; 0 when all are within their bounds."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    ratios: dict[str, list[float]] = {name: [] for name in BOUNDS}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place)
        for i in range(pairs):
            # Which one is first changes from pair to pair.
            order = [("ours", OURS), ("shortest", SHORTEST)][:: 1 if i % 2 else -1]
            found = {name: measured(code, place, f"{name}-{i}") for name, code in order}
            for name, values in ratios.items():
                values.append(found["ours"][name] / found["shortest"][name])
            print(f"pair {i + 1}: " + ", ".join(f"{n} {v[-1]:.3f}" for n, v in ratios.items()))
        code = "OUT = 'clocked'\n" + CALLBACKS + OURS.replace("{steps}", str(STEPS)) + SHARE
        share = float(said_by(code, place).splitlines()[-1])
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    for name, value in medians.items():
        low, high = min(ratios[name]), max(ratios[name])
        print(f"{name:12} {value:.3f} ({low:.3f} to {high:.3f}; bound {BOUNDS[name]})")
    print(f"callbacks    {share:.2%} of a step (bound 1 %)")
    return int(any(medians[name] > BOUNDS[name] for name in BOUNDS) or share > 0.01)


if __name__ == "__main__":
    sys.exit(main())

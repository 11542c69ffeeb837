"""Preferences and rewards: rows as TRL documents them, what is refused, what reaches TRL."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows
from test_run_input import LLAMA, refused

from ftadvisor.api.evaluating import evaluate
from ftadvisor.api.running import run
from ftadvisor.errors import DataFileError, FtadvisorError
from ftadvisor.execution import examples, preferences
from ftadvisor.schema.plan import PlanDataset
from ftadvisor.schema.run import RunSettings

USER, GOOD, BAD = (
    {"role": role, "content": text}
    for role, text in (("user", "Why?"), ("assistant", "Because."), ("assistant", "No."))
)
PAIR = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
PAIRS = [{"prompt": f"Say {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
PROMPTS = [{"prompt": f"Say {i}", "answer": str(i)} for i in range(20)]


TINY: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1,
    "max_steps": 4, "max_length": 96, "learning_rate": 5e-3, "eval_share": 0.2,
    "gradient_checkpointing": "none", "warmup_steps": 0,
}  # fmt: skip


def read(place: Path, objective: str, row: dict[str, Any], **columns: str) -> dict[str, Any]:
    data = write_rows(place / "rows.jsonl", [row])
    wanted = PlanDataset(path=str(data), format=None, columns=columns, split="train")
    settings = RunSettings(output_dir=str(place), eval_share=0.0)
    return examples.read_examples(wanted, objective, settings, 0).train[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, PAIR),
        ({"question": "Why?", "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        # UltraFeedback's: whole conversations beside the prompt.
        ({"prompt": "Why?", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
        # hh-rlhf's: two texts, no prompt.
        (
            {"chosen": "\n\nHuman: Why?\n\nAssistant: Yes.",
             "rejected": "\n\nHuman: Why?\n\nAssistant: Yet."},
            {"prompt": "\n\nHuman: Why?\n\nAssistant: ", "chosen": "Yes.", "rejected": "Yet."},
        ),
        (
            {"system": "Be brief.", "prompt": "Why?", "chosen": "Because.", "rejected": "No."},
            {**PAIR, "prompt": [{"role": "system", "content": "Be brief."}, USER]},
        ),
    ],
)  # fmt: skip
def test_pairs(tmp_path: Path, row: dict[str, Any], found: dict[str, Any]):
    for objective in ("dpo", "orpo", "reward"):
        assert read(tmp_path, objective, row) == found


def test_verdicts_come_from_labels_and_from_pairs(tmp_path: Path):
    row = {"prompt": "Why?", "completion": "No.", "label": "False"}
    found = {"prompt": [USER], "completion": [BAD], "label": False}
    assert read(tmp_path, "kto", row) == found
    assert preferences.judged_apart([found, PAIR]) == [
        found,
        {"prompt": [USER], "completion": [GOOD], "label": True},
        {"prompt": [USER], "completion": [BAD], "label": False},
    ]


@pytest.mark.parametrize(
    ("row", "beside"),
    [
        ({"prompt": "Why?"}, {}),
        ({"prompt": "Why?", "answer": "Because.", "level": 3}, {"answer": "Because.", "level": 3}),
        ({"messages": [USER, GOOD]}, {}),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, {}),
    ],
)
def test_prompts_end_before_the_answer(tmp_path: Path, row: dict[str, Any], beside: dict[str, Any]):
    """What stands beside them reaches a reward function by its own name."""
    assert read(tmp_path, "grpo", row) == {"prompt": [USER], **beside}


def test_columns_beside_the_plans_own_stay_for_the_reward(tmp_path: Path):
    row = {"task": "Why?", "solution": "Because."}
    found = read(tmp_path, "rloo", row, prompt="task")
    assert found == {"prompt": [USER], "solution": "Because."}


@pytest.mark.parametrize(
    ("objective", "row", "said"),
    [
        ("dpo", {"prompt": "Why?", "completion": "No."}, "a prompt, chosen and rejected"),
        ("dpo", {"prompt": "", "chosen": "a", "rejected": "b"}, "has no prompt"),
        ("dpo", {"chosen": "abc", "rejected": "xyz"}, "share no beginning"),
        ("kto", {"prompt": "Why?", "completion": "No."}, "a label (true or false)"),
        ("grpo", {"text": "Once upon a time."}, "rows with a prompt"),
    ],
)
def test_rows_without_what_is_needed(
    tmp_path: Path, objective: str, row: dict[str, Any], said: str
):
    with pytest.raises(DataFileError) as caught:
        read(tmp_path, objective, row)
    assert said in str(caught.value)


def reward_directory(place: Path, config: dict[str, Any], name: str = "config.json") -> Path:
    place.mkdir()
    (place / name).write_text(json.dumps(config))
    return place


def test_a_reward_is_named_once(model: Path, tmp_path: Path):
    data = write_rows(tmp_path / "prompts.jsonl", PROMPTS)
    for options, said in (
        ({}, "nothing says how good an answer is"),
        ({"reward_model": "a", "reward_function": "b:c"}, "both score answers"),
        ({"reward_function": "rewards"}, "module:function"),
        ({"reward_function": "no_such_module:score"}, "ModuleNotFoundError"),
        ({"reward_function": "json:score"}, "has no such function"),
        ({"reward_model": tmp_path / "none"}, "is no directory"),
        ({"reward_model": tmp_path / "none", "objective": "sft"}, "has no effect"),
        ({"micro_batch_size": 3, "num_generations": 8}, "num_generations 8 does not divide"),
    ):
        given = {"objective": "grpo", "gradient_accumulation_steps": 4, **options}
        assert said in str(refused(model, data, **given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("technique", "objective", "said"),
    [
        ("adaption_prompt", "dpo", "PEFT keeps the one it had"),
        ("adaption_prompt", "grpo", "PEFT keeps the one it had"),
        ("p_tuning", "orpo", "virtual tokens"),
        ("ln_tuning", "rloo", "without autocast"),
    ],
)
def test_what_the_libraries_cannot_do_together(
    model: Path, tmp_path: Path, technique: str, objective: str, said: str
):
    """Else it fails in their own words once the model is loaded."""
    (tmp_path / "scoring.py").write_text("def score(**_):\n    return []\n")
    scored = {"reward_function": f"{tmp_path / 'scoring.py'}:score"}
    data = write_rows(tmp_path / "rows.jsonl", PAIRS)
    batch = {"num_generations": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 1}
    given = {**scored, **batch} if objective in preferences.POLICY else {}
    error = refused(model, data, technique=technique, objective=objective, **given)
    assert said in str(error)


def test_a_reward_model_scores(model: Path, tmp_path: Path):
    data = write_rows(tmp_path / "prompts.jsonl", PROMPTS)
    scoring = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    one = {**scoring, "id2label": {"0": "reward"}}
    gone = {"task_type": "SEQ_CLS", "base_model_name_or_path": str(tmp_path / "gone")}
    words = {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(model)}
    for name, config, file, said in (
        ("words", LLAMA, "config.json", "it predicts words"),
        ("classes", scoring, "config.json", "tells 2 classes apart"),
        ("bare", one, "config.json", "holds no tokenizer"),
        ("orphan", gone, "adapter_config.json", "which is not there"),
        ("adapter", words, "adapter_config.json", "it predicts words"),
        ("empty", {}, "README.md", "holds no model"),
    ):
        place = reward_directory(tmp_path / name, config, file)
        error = refused(model, data, objective="rloo", reward_model=place)
        assert said in str(error)
    (tmp_path / "bare/tokenizer.json").write_text("{}")
    error = refused(model, data, objective="grpo", reward_model=tmp_path / "bare", beta=0.0)
    assert "beta 0" in str(error)


def test_steps_of_a_policy_are_full_batches_of_answers(model: Path):
    """AdaLoRA's schedule ends with them."""
    from ftadvisor.api.run_plans import plan_of
    from ftadvisor.api.simulating import settings_of
    from ftadvisor.execution.arguments import total_steps
    from ftadvisor.schema.run import RunSettings

    given = {"num_generations": 4, "micro_batch_size": 8, "gradient_accumulation_steps": 2}
    run = RunSettings(output_dir="out")
    for objective, epochs, steps in (("grpo", 3, 3 * 2), ("sft", 3, 3 * 1)):
        more = given if objective == "grpo" else {k: given[k] for k in [*given][1:]}
        options = {"model": str(model), "objective": objective, "num_train_epochs": epochs, **more}
        plan = plan_of(None, options, needs_data=False)
        # Ten prompts: 40 answers, 16 a step.
        assert total_steps(plan, settings_of(plan.estimate), run, 10) == steps


def test_ppo_names_what_there_is(model: Path, tmp_path: Path):
    data = write_rows(tmp_path / "prompts.jsonl", PROMPTS)
    error = refused(model, data, objective="ppo", reward_model=tmp_path)
    assert "grpo" in str(error)
    assert "rloo" in str(error)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestTraining:
    """With TRL's own trainers."""

    @pytest.fixture(autouse=True)
    def _stack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("trl")
        pytest.importorskip("bitsandbytes")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @pytest.fixture
    def trainers(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The trainers that the runs make."""
        from ftadvisor.execution import trainers

        found: list[Any] = []

        def kept(build: Any) -> Any:
            return lambda of: found.append(build(of)) or found[-1]

        for objective, build in {**trainers.BUILDERS}.items():
            monkeypatch.setitem(trainers.BUILDERS, objective, kept(build))
        return found

    def train(
        self, models: dict[str, Path], place: Path, objective: str, technique: str, **options: Any
    ) -> Any:
        rows = PROMPTS if objective in preferences.POLICY else PAIRS
        data = write_rows(place / "rows.jsonl", rows)
        return run(
            model=str(models["decoder"]), objective=objective, technique=technique,
            dataset=str(data), output_dir=place / "out", **{**TINY, **options},
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("objective", "technique", "figure"),
        [
            ("dpo", "full", "reward_margin"),
            ("dpo", "qlora", "reward_margin"),
            ("kto", "full", "reward_margin"),
            ("kto", "lora", "reward_margin"),
            ("orpo", "full", "reward_margin"),
            ("orpo", "lora", "reward_margin"),
            ("reward", "qlora", "reward_margin"),
        ],
    )
    def test_preferences_are_learnt(
        self, models: dict[str, Path], tmp_path: Path, trainers: list[Any], objective: str,
        technique: str, figure: str,
    ):  # fmt: skip
        """The held-out loss falls and the margin grows; what is saved answers the same."""
        settings = {} if objective == "reward" else {"beta": 0.3}
        # PEFT loads any adapter so.
        dtype = {"adapter_dtype": "fp32"} if technique == "qlora" else {}
        report = self.train(models, tmp_path, objective, technique, **settings, **dtype)
        for name, sign in (("eval_loss", -1), (figure, 1)):
            metric = report.metrics[name]
            assert sign * (metric.after - metric.before) > 0
        assert "perplexity" not in report.metrics
        (trainer,) = trainers
        args = trainer.args
        assert args.max_length == 96
        if settings:
            assert args.beta == 0.3
        if technique == "full" and objective != "orpo":
            assert trainer.ref_model is not trainer.model
        elif technique != "full":
            assert {*trainer.model.peft_config} == {"default"}
        if objective == "kto":
            labels = trainer.train_dataset["label"]
            assert labels != sorted(labels, reverse=True)
        self.saves_what_it_answers(models, trainer, tmp_path / "out", objective, technique)

    def saves_what_it_answers(
        self, models: dict[str, Path], trainer: Any, out: Path, objective: str, technique: str
    ) -> None:
        import torch
        import transformers
        from peft import PeftModel

        cls = transformers.AutoModelForCausalLM
        options: dict[str, Any] = {"dtype": torch.float32}
        if objective == "reward":
            cls, options["num_labels"] = transformers.AutoModelForSequenceClassification, 1
        if technique == "full":
            again = cls.from_pretrained(out, **options)
        else:
            if technique == "qlora":
                base = trainer.model.base_model.model
                options["quantization_config"] = base.config.quantization_config
            again = cls.from_pretrained(models["decoder"], **options)
            again = PeftModel.from_pretrained(again, out)
        again.config.pad_token_id = 0
        for layer in again.modules():
            # Else its first evaluation packs them anew, and they round otherwise (study 2.1).
            layer.support_avx512bf16_for_cpu = False
        ids = torch.arange(10, 30)[None]
        with torch.no_grad():
            expected = trainer.model.eval()(input_ids=ids).logits
            assert torch.allclose(again.eval()(input_ids=ids).logits, expected, atol=1e-5)

    def test_a_reward_model_is_merged_and_evaluated(self, models: dict[str, Path], tmp_path: Path):
        """Its head is one number, wherever it is loaded again."""
        rest = write_rows(tmp_path / "rest.jsonl", PAIRS[:4])
        report = self.train(
            models, tmp_path, "reward", "lora", merge=True, eval_dataset=rest, max_steps=2
        )
        assert report.status == "done"
        for place in ("out", "out/merged"):
            found = evaluate(
                tmp_path / place, dataset=rest, objective="reward", precision="fp32", max_length=96
            )
            assert found.metrics["reward_margin"].after == pytest.approx(
                report.metrics["reward_margin"].after, abs=1e-4
            )

    @pytest.mark.parametrize(
        ("objective", "technique"),
        [("dpo", "lora"), ("dpo", "vera"), ("kto", "prefix_tuning"), ("grpo", "lora")],
    )
    def test_eval_alone_measures_from_the_base(
        self, models: dict[str, Path], tmp_path: Path, objective: str, technique: str
    ):
        """As the run did; TRL would take an adapter that it is handed for the reference."""
        (tmp_path / "scoring.py").write_text(
            "def short(completions, **_):\n"
            "    return [-float(len(one[0]['content'])) for one in completions]\n"
        )
        scored = {"reward_function": f"{tmp_path / 'scoring.py'}:short"}
        answers = {"num_generations": 2, "max_completion_length": 5}
        given = scored if objective == "grpo" else {}
        rest = write_rows(tmp_path / "rest.jsonl", PROMPTS[:4] if given else PAIRS[:4])
        report = self.train(
            models, tmp_path, objective, technique, eval_dataset=rest, beta=0.3, **given,
            **(answers if given else {}),
        )  # fmt: skip
        found = evaluate(tmp_path / "out", dataset=rest, **given)
        name = "mean_reward" if given else "reward_margin"
        assert found.metrics[name].after == pytest.approx(report.metrics[name].after, abs=1e-3)
        assert found.metrics[name].before == pytest.approx(report.metrics[name].before, abs=1e-3)

    def test_orpo_leaves_out_prompts_that_fill_max_length(
        self, models: dict[str, Path], tmp_path: Path
    ):
        """TRL keeps them, and the loss of an answer without tokens is no number."""
        full = {"prompt": "word " * 300, "chosen": "good", "rejected": "bad"}
        data = write_rows(tmp_path / "rows.jsonl", [*PAIRS, *[full] * 4])
        report = run(
            model=str(models["decoder"]), technique="lora", objective="orpo", dataset=str(data),
            **{**TINY, "output_dir": tmp_path / "out", "eval_share": 0.0, "max_steps": 6},
        )  # fmt: skip
        assert report.status == "done"
        assert "4 examples left out: max_length" in " ".join(e.what for e in report.events)

    def test_what_the_plan_says_reaches_the_policys_trainer(
        self, models: dict[str, Path], tmp_path: Path, trainers: list[Any]
    ):
        """Against a function, which is given the columns beside the prompt."""
        (tmp_path / "scoring.py").write_text(
            "def short(completions, answer, **_):\n"
            "    assert all(isinstance(one, str) for one in answer)\n"
            "    return [-float(len(one[0]['content'])) for one in completions]\n"
        )
        report = self.train(
            models, tmp_path, "grpo", "qlora", max_steps=2, beta=0.1, num_generations=2,
            max_completion_length=5, reward_function=f"{tmp_path / 'scoring.py'}:short",
        )  # fmt: skip
        (trainer,) = trainers
        args = trainer.args
        assert (args.beta, args.num_generations, args.max_completion_length) == (0.1, 2, 5)
        assert args.generation_batch_size == 4
        assert trainer.ref_model is None
        assert {*trainer.model.peft_config} == {"default"}
        assert all("kl" in row for row in report.losses)
        assert report.metrics["mean_reward"].after is not None
        assert "eval_loss" not in report.metrics
        assert report.measured["tokens_per_second"] > 0
        assert (tmp_path / "out/adapter_model.safetensors").is_file()


def test_a_reward_function_is_found_by_file_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ftadvisor.execution.rewards import find_function

    (tmp_path / "own_scores.py").write_text("def score(**_):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert find_function(f"{tmp_path / 'own_scores.py'}:score")() == [1.0]
    assert find_function("own_scores:score")() == [1.0]
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(FtadvisorError, match="ZeroDivisionError"):
        find_function("broken.py:score")

"""Which objective a model can be trained for."""

from __future__ import annotations

import pytest

from ftadvisor import estimate
from ftadvisor.errors import UnsupportedError


@pytest.mark.parametrize(
    ("model", "objective", "trainer"),
    [
        ("llama-7b", "sft", "trl-1.16"),
        ("t5-small", "seq2seq", "transformers-5"),
        ("bert-base-uncased", "seq_cls", "transformers-5"),
    ],
)
def test_a_family_has_its_usual_objective_and_says_so(model: str, objective: str, trainer: str):
    found = estimate(model)
    assert (found.objective, found.trainer) == (objective, trainer)
    said = any(f"objective {objective}: none was given" in s for s in found.assumptions)
    assert said == (objective != "sft")
    asked = estimate(model, objective=objective)
    assert not any("objective" in s for s in asked.assumptions)


@pytest.mark.parametrize("objective", ["sft", "cpt", "dpo", "grpo", "seq2seq", "distillation"])
def test_an_encoder_is_trained_to_classify(objective: str):
    with pytest.raises(UnsupportedError, match=objective) as caught:
        estimate("bert-base-uncased", objective=objective)
    assert "--objective seq_cls" in caught.value.suggestions


@pytest.mark.parametrize("objective", ["seq_cls", "token_cls", "reward"])
def test_and_that_it_can(objective: str):
    assert estimate("bert-base-uncased", objective=objective).objective == objective


def test_seq2seq_needs_an_encoder():
    with pytest.raises(UnsupportedError, match="no encoder"):
        estimate("llama-7b", objective="seq2seq")


@pytest.mark.parametrize("objective", [None, "sft", "seq_cls"])
def test_a_model_of_images_alone_is_refused(objective: str | None):
    with pytest.raises(UnsupportedError, match="reads images only"):
        estimate("google/vit-base-patch16-224", objective=objective)

"""Names, files and hub ids to models; the catalogue's counts against published ones and torch's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ftadvisor.errors import (
    DataFileError,
    FtadvisorError,
    ModelUnavailableError,
    UnknownNameError,
    UnsupportedError,
)
from ftadvisor.sources.architectures.config import architectures
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.models import find_model, model_config, model_names

ROWS: dict[str, dict[str, Any]] = {row["id"]: row for row in read_json("models.json")["models"]}
AGREES = 1e-4
"""Published counts agree to 0.01 %, or the row says why not."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.get("params_published")])
def test_published_counts_agree_or_the_row_says_why(name: str):
    row = ROWS[name]
    error = abs(find_model(name).spec.num_params / row["params_published"] - 1)
    assert (error <= AGREES) != bool(row.get("params_differ")), f"{error:.4%}"
    assert row["params_published_source"]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_described_and_says_where_from(name: str):
    row = ROWS[name]
    assert row["source"]
    assert row["modality"] in ("text", "text+image", "image")
    assert row["context"] is None or row["context"] > 0
    spec = find_model(name).spec
    assert spec.num_params > 0
    assert spec.id == name
    assert sum(block.num_layers for block in spec.blocks) >= spec.num_layers


def test_no_name_means_two_models():
    names = [name for row in ROWS.values() for name in (row["id"], *row.get("variants", ()))]
    aliases = [name for row in ROWS.values() for name in row["aliases"]]
    assert [n for n, count in Counter(names).items() if count > 1] == []
    assert [n for n, count in Counter(aliases).items() if count > 1] == []
    for row in ROWS.values():
        for alias in row["aliases"]:
            assert find_model(alias).spec.id == row["id"], alias


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("llama-7b", "huggyllama/llama-7b"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("LLAMA-2-7B", "meta-llama/Llama-2-7b-hf"),
        ("llama3.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        (" gpt2 ", "openai-community/gpt2"),
    ],
)
def test_loose_names(name: str, id_: str):
    assert find_model(name).spec.id == id_


def test_every_model_of_the_measurements_is_known_but_four():
    unknown: set[str] = set()
    for m in read_measurements():
        try:
            find_model(m.model)
        except FtadvisorError:
            unknown.add(m.model)
    assert len(unknown) <= 4, unknown


@pytest.mark.parametrize(
    "name", ["lama-7b", "llama-7", "Mistral 7B v9", "", " ", "\x00", "a" * 999]
)
def test_unknown_names_are_one_message(name: str):
    with pytest.raises(UnknownNameError):
        find_model(name)


def test_a_misspelt_name_suggests_the_right_one():
    with pytest.raises(UnknownNameError) as caught:
        find_model("lama-7b")
    assert "llama-7b" in caught.value.suggestions


def test_a_file_and_its_directory_are_the_model(tmp_path: Path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model_config("llama-7b")))
    spec = find_model("llama-7b").spec
    for path in (folder, folder / "config.json"):
        found = find_model(str(path))
        assert (found.spec.id, found.spec.num_params) == ("my-model", spec.num_params)
        assert found.row is None


def test_the_hubs_own_cache_is_read_without_a_network(tmp_path: Path):
    snapshot = tmp_path / "hub-home" / "hub" / "models--me--mine" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(model_config("gpt2")))
    assert find_model("me/mine").spec.num_params == find_model("gpt2").spec.num_params


def test_an_id_without_a_network_says_what_to_do():
    with pytest.raises(ModelUnavailableError, match="HF_HUB_OFFLINE") as caught:
        find_model("me/not-there")
    assert "--model PATH/config.json" in caught.value.suggestions


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", DataFileError),
        ("[]", DataFileError),
        ("{", DataFileError),
        ('{"hidden_size": 4096}', FtadvisorError),
        ('{"model_type": "mamba"}', UnsupportedError),
        ('{"model_type": "no-such-type"}', UnsupportedError),
        ('{"model_type": "llama", "hidden_size": -1}', DataFileError),
        ('{"model_type": "llama", "num_hidden_layers": "many"}', DataFileError),
        ('{"model_type": "llama", "num_hidden_layers": 1e99}', DataFileError),
        ("[" * 100_000, DataFileError),
    ],
)
def test_a_bad_config_is_one_message(tmp_path: Path, content: str, error: type[Exception]):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(error):
        find_model(str(path))


@pytest.mark.parametrize("name", ["absent.json", "model.safetensors"])
def test_a_path_that_is_no_config_says_so(name: str):
    with pytest.raises(DataFileError, match="is not a config"):
        find_model(name)


def test_the_list_names_every_alias():
    assert {"llama-7b", "huggyllama/llama-7b", "gpt2"} <= set(model_names())


TEXTS = [n for n, row in ROWS.items() if row["modality"] == "text"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TEXTS)
def test_transformers_builds_the_config_with_as_many_parameters(name: str):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    given = json.loads(json.dumps(model_config(name)))
    model_type = given.pop("model_type")
    row = architectures()[model_type]
    if row.get("remote_code"):
        pytest.skip("the modelling code is the publisher's")
    config = transformers.AutoConfig.for_model(model_type, **given)
    auto = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
    }[row["layout"]]
    with torch.device("meta"):
        model = auto.from_config(config)
    spec = find_model(name).spec
    count = sum(p.numel() for p in model.parameters())
    if row.get("head_of_checkpoint") and not spec.tie_word_embeddings:
        # Transformers ties such a head until it has loaded the checkpoint's own.
        count += spec.vocab_size * spec.hidden_size
    assert spec.num_params == count

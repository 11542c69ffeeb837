"""Names, files and hub ids to models; the catalogue's counts against published ones and torch's."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftadvisor.cli import main
from ftadvisor.errors import (
    DataFileError,
    FtadvisorError,
    ModelUnavailableError,
    UnknownNameError,
    UnsupportedError,
)
from ftadvisor.sources import models
from ftadvisor.sources.architectures.config import architectures
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.models import check_models, find_model, model_config, model_names

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
        ("Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        ("llama 3.1 8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("llama2-7b", "meta-llama/Llama-2-7b-hf"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("mistral_7b_v0.1_hf", "mistralai/Mistral-7B-v0.1"),
        ("qwen/QWEN2.5-7b", "Qwen/Qwen2.5-7B"),
        # As published rows spell them.
        ("bert-base-cased", "google-bert/bert-base-cased"),
        ("t5-small", "google-t5/t5-small"),
        ("megatron-gpt2-345m", "nvidia/megatron-gpt2-345m"),
        ("meta-llama/Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-405B"),
        ("NousResearch/Llama-2-70b-hf", "meta-llama/Llama-2-70b-hf"),
        ("Qwen/Qwen-7B-Chat", "Qwen/Qwen-7B"),
        ("01-ai/Yi-34B-Chat", "01-ai/Yi-34B"),
        ("baichuan-inc/Baichuan2-7B-Chat", "baichuan-inc/Baichuan2-7B-Base"),
        ("microsoft/deberta-v2-xxlarge-mnli", "microsoft/deberta-v2-xxlarge"),
    ],
)
def test_loose_names(name: str, id_: str):
    assert find_model(name).spec.id == id_


def underscored(name: str) -> str:
    return name.replace("-", "_")


@pytest.mark.parametrize("change", [str.lower, str.upper, underscored])
def test_case_and_punctuation_never_lead_to_another_model(change: Callable[[str], str]):
    for row in ROWS.values():
        for name in (row["id"], *row["aliases"], *row.get("variants", ())):
            found, meant = find_model(change(name)).spec, find_model(name).spec
            assert found == meant, (name, found.id)


@pytest.mark.parametrize(
    "name", ["TheBloke/Llama-2-70B-GPTQ", "Llama-2-70B-GPTQ", "Qwen/Qwen-14B-Chat-Int4"]
)
def test_a_quantised_checkpoint_says_which_setting_counts_it(name: str):
    found = find_model(name)
    assert "--quantization gptq-int4" in " ".join(found.assumptions)
    assert found.row is not None
    assert "--quantization" not in " ".join(find_model(found.row["id"]).assumptions)


def test_a_quantised_config_says_so(tmp_path: Path):
    path = tmp_path / "config.json"
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    path.write_text(json.dumps(model_config("llama-7b") | quantised))
    assert "'awq'" in " ".join(find_model(str(path)).assumptions)


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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lama-7b", "llama-7b"),
        ("mistrl-7b", "mistral-7b"),
        ("qwen2.5-7", "qwen2.5-7b"),
        ("bert-base-uncase", "bert-base-uncased"),
    ],
)
def test_a_misspelt_name_suggests_the_right_one(typed: str, meant: str):
    with pytest.raises(UnknownNameError) as caught:
        find_model(typed)
    assert meant in caught.value.suggestions


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
        ('{"model_type": "no-such-type"}', UnsupportedError),
        ('{"model_type": "llama", "hidden_size": -1}', DataFileError),
        ('{"model_type": "llama", "num_hidden_layers": "many"}', DataFileError),
        ('{"model_type": "llama", "num_hidden_layers": 1e99}', DataFileError),
        ('{"model_type": "roberta", "max_position_embeddings": 2}', DataFileError),
        ("[" * 100_000, DataFileError),
    ],
)
def test_a_bad_config_is_one_message(tmp_path: Path, content: str, error: type[Exception]):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(error):
        find_model(str(path))


def test_every_row_is_right():
    check_models()
    assert len(ROWS) >= 386


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The catalogue's file, to be broken."""
    content = copy.deepcopy(read_json("models.json"))
    cached = (models.find_model, models._rows, models._exact, models._loose)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(models, "read_json", lambda _: content)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    for function in cached:
        function.cache_clear()
    yield content
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize(
    ("field", "value", "write"),
    [
        ("gatd", False, "gated"),
        ("params_publised", 7, "params_published"),
        ("source", None, "a text"),
    ],
)
def test_a_row_with_a_misspelt_field_says_which(
    file: dict[str, Any], field: str, value: object, write: str
):
    row = file["models"][7]
    if value is None:
        del row[field]
    else:
        row[field] = value
    with pytest.raises(DataFileError) as caught:
        find_model("gpt2")
    assert (caught.value.file, caught.value.row, caught.value.field) == (
        "models.json",
        row["id"],
        field,
    )
    assert write in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aliases", "llama"),
        ("aliases", [7]),
        ("aliases", ["gpt2"]),
        ("context", "4096"),
        ("context", 0),
        ("params_published", 6.7e9),
        ("gated", "no"),
        ("config", []),
        ("license", ""),
    ],
)
def test_a_row_of_wrong_kinds_says_which(file: dict[str, Any], field: str, value: object):
    row = file["models"][-1]
    row[field] = value
    with pytest.raises(DataFileError) as caught:
        check_models()
    assert (caught.value.row, caught.value.field) == (row["id"], field)


@pytest.mark.parametrize("content", [[], {}, {"models": None}, {"models": [1]}, {"models": {}}])
def test_a_file_without_rows_is_one_message(monkeypatch: pytest.MonkeyPatch, content: object):
    rows = models._rows  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(models, "read_json", lambda _: content)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    rows.cache_clear()
    with pytest.raises(DataFileError, match="models"):
        rows()
    rows.cache_clear()


REFUSED = sorted(kind for kind, row in architectures().items() if "refused" in row)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_described_is_refused_by_name(tmp_path: Path, kind: str):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, "hidden_size": 64}))
    with pytest.raises(UnsupportedError, match=f"'{kind}'"):
        find_model(str(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba-2.8b", "state-space"),
        ("jamba", "state-space"),
        ("Jamba_1.5_mini", "state-space"),
        ("recurrentgemma-2b", "state-space"),
        ("state-spaces/mamba-130m", "state-space"),
        ("qwen3.5-9b", "linear attention"),
        ("whisper-large-v3", "speech"),
    ],
)
def test_well_known_models_are_refused_by_name(name: str, reason: str):
    with pytest.raises(UnsupportedError, match=reason) as caught:
        find_model(name)
    assert name in str(caught.value)
    assert caught.value.suggestions == ("ftadvisor list models",)


def test_a_name_that_only_looks_like_a_family_is_unknown():
    for name in ("mambo-2.8b", "jambalaya", "clipper"):
        with pytest.raises(UnknownNameError):
            find_model(name)


def test_state_spaces_are_among_them():
    assert {"mamba", "mamba2", "jamba", "rwkv", "falcon_mamba"} <= set(REFUSED)


@pytest.mark.parametrize(
    "name", ["absent.json", "model.safetensors", "./absent", "/absent", "../a/b", "~/absent"]
)
def test_a_path_that_is_no_config_says_so(name: str):
    with pytest.raises(DataFileError, match="is not a config"):
        find_model(name)


def test_a_directory_without_a_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "me" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("me/model", "me", str(tmp_path), "me/config.json"):
        with pytest.raises(DataFileError, match=r"config\.json: does not exist"):
            find_model(name)


def test_a_config_that_may_not_be_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "config.json"
    path.write_text("{}")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataFileError, match="Permission denied"):
        find_model(str(path))


def test_the_list_names_every_alias():
    assert {"llama-7b", "huggyllama/llama-7b", "gpt2"} <= set(model_names())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
def test_transformers_builds_what_show_prints_with_as_many_parameters(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    assert main(["show", "model", name, "--config"]) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    row = architectures()[ROWS[name]["config"]["model_type"]]
    if row.get("remote_code"):
        pytest.skip("the modelling code is the publisher's")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    auto = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
        "vision": transformers.AutoModel,
        "vision_language": transformers.AutoModelForImageTextToText,
    }[row["layout"]]
    with torch.device("meta"):
        model = auto.from_config(config)
    spec = find_model(name).spec
    count = sum(p.numel() for p in model.parameters())
    if row.get("head_of_checkpoint") and not spec.tie_word_embeddings:
        # Transformers ties such a head until it has loaded the checkpoint's own.
        count += spec.vocab_size * spec.hidden_size
    assert spec.num_params == count

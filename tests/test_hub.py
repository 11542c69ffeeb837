"""The hub: a server of our own stands for it; nothing here leaves the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftadvisor.errors import DataFileError, ModelUnavailableError, UnsupportedError
from ftadvisor.sources import hub
from ftadvisor.sources.hub import hub_config
from ftadvisor.sources.models import find_model, model_config

GPT2 = json.dumps({"model_type": "gpt2", "n_layer": 2}).encode()


class Hub(ThreadingHTTPServer):
    """Answers by the name of the repository that is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Repositories)
        self.asked: list[tuple[str, str | None]] = []
        """Path and Authorization of every request."""
        self.done = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Repositories(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Hub)
        server.asked.append((self.path, self.headers.get("Authorization")))
        name = self.path.split("/")[2]
        if name == "hangs":
            server.done.wait(10)
        elif name == "mute":
            self.wfile.write(b"what?\r\n\r\n")
        elif name == "moved":
            self._answer(307, b"", "/me/fine/resolve/main/config.json")
        elif name.isdecimal():
            self._answer(int(name), b"{}")
        else:
            self._answer(200, {"fine": GPT2, "garbage": b"<html>", "list": b"[]"}.get(name, b"{}"))

    def _answer(self, status: int, content: bytes, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    find_model.cache_clear()
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.done.set()
        running.shutdown()
        thread.join()


def keep(tmp_path: Path, model_id: str, content: str) -> Path:
    """A config.json where the hub's own library would have put it."""
    folder = tmp_path / "home" / "hub" / f"models--{model_id.replace('/', '--')}"
    path = folder / "snapshots" / "5c2f" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return path


def test_a_config_is_fetched_and_read(server: Hub):
    found = find_model("me/fine")
    assert (found.spec.id, found.spec.num_layers, found.row) == ("me/fine", 2, None)
    assert model_config("me/fine") == json.loads(GPT2)
    assert server.asked[0] == ("/me/fine/resolve/main/config.json", None)


def test_a_renamed_model_is_followed(server: Hub):
    assert hub_config("me/moved") == json.loads(GPT2)
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_how_to_get_it(server: Hub, status: int):
    with pytest.raises(ModelUnavailableError, match=rf"gated.*HTTP {status}") as caught:
        hub_config(f"me/{status}")
    terms, config = caught.value.suggestions
    assert f"https://huggingface.co/me/{status}" in terms
    assert "HF_TOKEN" in terms
    assert "config.json" in config
    assert server.asked


@pytest.mark.parametrize(("status", "said"), [(404, "no config.json"), (500, "HTTP 500")])
@pytest.mark.usefixtures("server")
def test_a_missing_model_or_a_broken_hub_says_what_else_works(status: int, said: str):
    with pytest.raises(ModelUnavailableError, match=said) as caught:
        hub_config(f"me/{status}")
    assert "ftadvisor list models" in caught.value.suggestions


@pytest.mark.usefixtures("server")
def test_a_hub_that_hangs_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        hub_config("me/hangs")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "not a url", "http://[", "gopher://x"])
@pytest.mark.usefixtures("server")
def test_no_hub_at_all(monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        hub_config("me/fine")


@pytest.mark.usefixtures("server")
def test_an_answer_that_is_no_http_is_one_message():
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        hub_config("me/mute")


@pytest.mark.parametrize("name", ["garbage", "list"])
@pytest.mark.usefixtures("server")
def test_an_answer_that_is_no_config_names_the_model(name: str):
    with pytest.raises(DataFileError, match=f"config.json of me/{name}"):
        hub_config(f"me/{name}")


@pytest.mark.usefixtures("server")
def test_a_config_without_model_type_is_refused():
    with pytest.raises(UnsupportedError, match="model_type"):
        find_model("me/empty")


def test_offline_nothing_is_asked(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailableError, match="HF_HUB_OFFLINE"):
        hub_config("me/fine")
    assert server.asked == []


def test_the_cache_comes_first(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep(tmp_path, "me/404", '{"model_type": "bert"}')
    assert hub_config("me/404") == {"model_type": "bert"}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert hub_config("me/404") == {"model_type": "bert"}
    assert server.asked == []


@pytest.mark.usefixtures("server")
def test_a_broken_file_in_the_cache_is_named(tmp_path: Path):
    path = keep(tmp_path, "me/fine", "{")
    with pytest.raises(DataFileError, match="is not JSON") as caught:
        hub_config("me/fine")
    assert caught.value.file == str(path)


def test_the_token_goes_to_the_hub_and_no_further(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    hub_config("me/moved")
    assert [token for _, token in server.asked] == ["Bearer hf_x", None]
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_stored\n")
    hub_config("me/fine")
    assert server.asked[-1][1] == "Bearer hf_stored"


def test_a_model_of_the_catalogue_never_asks_the_hub(server: Hub):
    find_model("llama-7b")
    assert server.asked == []


def test_only_a_question_to_the_hub_imports_urllib():
    code = (
        "import sys, ftadvisor.sources.models as m; m.find_model('gpt2');"
        "print([n for n in ('urllib.request', 'http.client', 'ssl') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What several test files share."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

_HOMES = count()


@pytest.fixture(autouse=True)
def _no_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """Each test starts without measurements, and writes none into the user's own."""
    place = tmp_path_factory.getbasetemp() / "data" / str(next(_HOMES))
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    # It outranks the other.
    monkeypatch.delenv("FTADVISOR_HOME", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _no_measurements_of_fixtures(tmp_path_factory: pytest.TempPathFactory):
    """What a fixture of a module or of the session runs writes none there either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data" / "session"))
        patch.delenv("FTADVISOR_HOME", raising=False)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models with random weights, by family. Needs the training stack."""
    from execution_models import build

    return build(tmp_path_factory.mktemp("models"))

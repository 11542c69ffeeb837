"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models with random weights, by family. Needs the training stack."""
    from execution_models import build

    return build(tmp_path_factory.mktemp("models"))

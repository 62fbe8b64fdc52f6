"""Where what is kept lies."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE, find_cache_folder


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "not yet"))
    assert find_cache_folder() == tmp_path / "not yet"
    assert not find_cache_folder().exists()


@pytest.mark.parametrize("value", ["", None])
def test_else_the_systems_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(CACHE_VARIABLE, value)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, **_: tmp_path / name)
    assert find_cache_folder() == tmp_path / "basisprune"

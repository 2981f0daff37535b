"""Each function of the API has a docstring with a runnable example."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import mvp_deploy as mvp

MODULES = sorted({place for place in mvp._PLACES if place.startswith("mvp_deploy.api")})


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(
    module: str,
    bank_folder: Path,
    run: mvp.Result,
    bundle_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"bank_folder": bank_folder, "bundle_folder": bundle_folder, "run_folder": run.folder}
    found = doctest.testmod(importlib.import_module(module), extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


@pytest.mark.parametrize("name", [name for name in mvp.__all__ if mvp._HOME[name].startswith("mvp_deploy.api")])
def test_every_function_says_what_it_takes_gives_and_shows_it(name: str) -> None:
    thing = getattr(mvp, name)
    methods = [value for key, value in vars(thing).items() if inspect.isclass(thing) and not key.startswith("_")]
    functions = [thing, *(getattr(method, "__func__", method) for method in methods)]
    for function in filter(inspect.isfunction, functions):
        text = inspect.getdoc(function) or ""
        assert ">>> " in text, function.__qualname__
        for argument in [key for key in inspect.signature(function).parameters if key not in ("self", "cls")]:
            assert f"    {argument}: " in text, f"{function.__qualname__} does not explain {argument}"

"""The pages run: every Python block of these pages, one after the other, as a reader would type them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from mvp_deploy.backbones import timm

timm()  # so that `import timm` works where torchvision is of another torch
ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
PAGES = [page for page in PAGES if BLOCK.search((ROOT / page).read_text(encoding="utf-8"))]


def readers_own() -> dict[str, object]:
    """What a reader of the README has: a model and its data."""
    body = (nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loader = [(torch.randn(32, 3, 16, 16), torch.arange(32) % 4) for _ in range(4)]
    return {"model": nn.Sequential(*body, nn.Linear(32, 4)), "loader": loader}


def test_the_pages_with_code_are_found() -> None:
    assert {"README.md", "docs/python.md", "docs/tutorial.md", "docs/structure-own-modules.md"} <= set(PAGES)


@pytest.mark.filterwarnings("ignore::UserWarning")  # few images, few tasks
@pytest.mark.parametrize("page", PAGES)
def test_its_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page", **(readers_own() if page == "README.md" else {})}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        code = compile("\n" * line + block[1], str(ROOT / page), "exec")
        exec(code, names)


def test_the_page_of_settings_has_every_key_of_deploy_yaml() -> None:
    from mvp_deploy.pipeline.config import Config

    schema = Config.model_json_schema()
    page = runpy.run_path(str(ROOT / "docs" / "settings.py"))["page"](schema)
    sections = [schema, *schema["$defs"].values(), schema["$defs"]["RecipeSection"]["properties"]["set"]]
    fields = {key: field for section in sections for key, field in section["properties"].items()}
    assert len(fields) > 40
    assert [key for key, field in fields.items() if "$ref" not in field and f"\n| `{key}` | " not in page] == []
    assert "| `precision` | `fp32`, `fp16`, `int8` |" in page  # a type that is a choice

"""Hooks of mkdocs: settings.md, made from the JSON schema of deploy.yaml; links to files outside of the site."""

from __future__ import annotations

import json
import re
from typing import Any

from mvp_deploy.pipeline.config import Config

INTRODUCTION = """# Settings

Every key of deploy.yaml, by section. On the command line, the same fields are options with dashes (`batch_size` is
`--batch-size`), and `--set FIELD=VALUE` sets a field of the recipe. This page is made from the schema that
`mvp-deploy schema` prints.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the page to those that mkdocs found."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "settings.md", content=page(Config.model_json_schema())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name files of the repository where a page links to them: the site does not hold them."""
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)#]*)[^)]*\)", r"\1 (`\2`)", markdown)


def page(schema: dict[str, Any]) -> str:
    """The page in Markdown: one table for each section of the schema."""
    parts = schema["$defs"]
    recipe = parts["RecipeSection"]["properties"]["set"]
    sections = {
        "The file": schema,
        "tasks": parts["TaskSection"],
        "budget": parts["Budget"],
        "time": parts["TimeSection"],
        "recipe": parts["RecipeSection"],
        "recipe.set": recipe,
        "training": parts["Training"],
        "export": parts["Exports"],
        "benchmark": parts["Timed"],
        "gates": parts["GatesSection"],
        "gates.latency": parts["LatencyLimit"],
        "gates.speed_up": parts["SpeedUpLimit"],
        "gates.DEVICE": parts["DeviceGates"],
    }
    return "\n".join([INTRODUCTION, *(_section(name, part) for name, part in sections.items())])


def _section(name: str, part: dict[str, Any]) -> str:
    fields = {key: field for key, field in part["properties"].items() if "$ref" not in field}
    rows = [f"| `{key}` | {_values(field)} | {_default(field)} | {_cell(field)} |" for key, field in fields.items()]
    head = (
        f"## {name}\n\n{part.get('description', '')}\n\n| key | values | default | meaning |\n| --- | --- | --- | --- |"
    )
    return "\n".join([head, *rows, ""])


def _values(field: dict[str, Any]) -> str:
    """What a field may be, as its schema says."""
    if "anyOf" in field:
        return " or ".join(_values(each) for each in field["anyOf"] if each.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if field.get("type") == "array":
        return f"a list of {_values(field['items'])}"
    if field.get("type") in ("integer", "number"):
        low = f"above {field['exclusiveMinimum']:g}" if "exclusiveMinimum" in field else f"from {field['minimum']:g}"
        return f"{low} to {field['maximum']:.10g}"
    names = {"boolean": "`true`, `false`", "string": "text", "object": "a mapping"}
    return names.get(field.get("type", "object"), "a mapping")


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "required"
    return "" if field["default"] is None else f"`{json.dumps(field['default'])}`"


def _cell(field: dict[str, Any]) -> str:
    return str(field.get("description", "")).replace("|", "\\|")

"""mvp-deploy schema: the JSON Schema of deploy.yaml, for editors."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of deploy.yaml, so that an editor completes and checks it.

    \b
    Example:
      mvp-deploy schema > deploy.schema.json
    """
    import json

    from mvp_deploy.pipeline.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))

"""mvp-deploy doctor: what this machine can do."""

from __future__ import annotations

from dataclasses import asdict

import click

from mvp_deploy.cli._common import Console, output_options


@click.command()
@output_options
def command(console: Console) -> None:
    """Say what this machine can do, and the exact install line for what it can't.

    \b
    Example:
      mvp-deploy doctor
    """
    from mvp_deploy.base.findings import lines
    from mvp_deploy.pipeline.doctor import examine

    findings = examine()
    for line in lines(findings):
        console.show(line)
    console.result({"findings": [asdict(finding) for finding in findings]})
    console.next("shrink DATA --model CHECKPOINT --macs 0.5 --out OUT, or mvp-deploy demo")

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
    from mvp_deploy.pipeline.doctor import examine

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        console.show(f"{finding.state:<7}  {finding.name:<{width}}  {finding.detail}")
        if finding.cure:
            console.show(f"{'':<7}  {'':<{width}}  -> {finding.cure}")
    console.result({"findings": [asdict(finding) for finding in findings]})
    console.next("shrink DATA --model CHECKPOINT --macs 0.5 --out OUT, or mvp-deploy demo")

"""mvp-deploy demo: the whole job on embedded images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mvp_deploy.cli._common import Console, common_options, resumes
from mvp_deploy.cli._types import PATH


@click.command()
@click.option("--out", default="mvp-demo", show_default=True, type=PATH, help="Where to work.")
@common_options
@resumes
def command(out: Path, device: str, seed: int, console: Console) -> None:
    """Run the whole job in a few minutes on handwritten digits that come with the program.

    Train a small backbone, fill a bank with six tasks, prune a new task by its neighbours' votes, export it, check
    parity, and time it against the unpruned model in ONNX Runtime. Killed and called again, it goes on.

    \b
    Example:
      mvp-deploy demo --out mvp-demo
    """
    import time

    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pipeline.demo import run_demo
    from mvp_deploy.report.task import COLUMNS

    began = time.monotonic()
    done = run_demo(out, device=resolve(device), seed=seed, reporter=console)
    console.show("")
    console.table(COLUMNS, done.rows)
    console.show(f"\n{done.summary}\n")
    for name, path in (("bank", done.bank), ("run", done.run), ("bundle", done.bundle), ("report", done.report)):
        console.show(f"{name:<7} {path}")
    console.show(f"\n{time.monotonic() - began:.0f} seconds")
    console.next(f"bench {done.bundle} --batch 1,8,32")
    console.result({key: str(value) if isinstance(value, Path) else value for key, value in asdict(done).items()})

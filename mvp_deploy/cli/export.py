"""mvp-deploy export: a run's models as a checked bundle."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.cli._common import Console, batch_sizes, common_options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--measure",
    default="1",
    show_default=True,
    callback=batch_sizes,
    help="Batch sizes to time; '' for none.",
)
@common_options
def command(run: Path, out: Path, measure: tuple[int, ...], device: str, seed: int, console: Console) -> None:
    """Export the pruned and the unpruned model of RUN, check them, and pack a bundle.

    Every file is compared with PyTorch on the task's held-out images, in its own runtime, one by one and in
    batches. Without parity no bundle is written and the exit code is 5.

    \b
    Example:
      mvp-deploy export runs/dogs --out bundles/dogs
    """
    from mvp_deploy.deploy import export_run
    from mvp_deploy.devices import resolve

    bundle = export_run(run, out, measure=measure, device=resolve(device), seed=seed, reporter=console)
    console.table(
        ["model", "target", "precision", "accuracy", "parity", "MB"],
        [
            [
                m.model,
                m.target,
                m.precision,
                f"{m.accuracy:.1%}",
                f"{m.parity:.1e}",
                _megabytes(bundle.path / m.file),
            ]
            for m in bundle.models
        ],
    )
    console.show(f"\nBundle: {out}\nNext: mvp-deploy bench {out}")
    console.result({"bundle": str(out), **bundle.info})


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.2f}"

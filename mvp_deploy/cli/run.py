"""mvp-deploy run: every task of a deploy.yaml checked, measured, judged and bundled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import JOBS
from mvp_deploy.base.errors import ExitCode, MvpError, error_of, worst
from mvp_deploy.cli._cluster import cluster_options
from mvp_deploy.cli._common import Console, output_options, resumes
from mvp_deploy.cli._on import fleet_of, named_options
from mvp_deploy.cli._types import PATH, Number

if TYPE_CHECKING:
    from mvp_deploy.base.cluster import Cluster
    from mvp_deploy.pipeline.config import Config


@click.command()
@click.argument("file", default="deploy.yaml", type=PATH)
@click.option("--only", multiple=True, metavar="TASK", help="This task alone (may be given again).")
@click.option("--jobs", default=1, show_default=True, type=Number(JOBS), help="Tasks pruned at once, in processes.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--baseline", type=PATH, help="report.json of the last accepted run, to compare with.")
@click.option("--set", "changes", multiple=True, metavar="A.B=VALUE", help="Put a value in place of FILE's.")
@click.option("--sign-key", type=PATH, help="Sign bundles with this private key (PEM).")
@click.option("--mlflow", metavar="URI", help="Log results to the MLflow tracking server or store there.")
@named_options
@cluster_options
@output_options
@resumes
def command(
    file: Path,
    only: tuple[str, ...],
    jobs: int,
    dry_run: bool,
    baseline: Path | None,
    changes: tuple[str, ...],
    sign_key: Path | None,
    mlflow: str | None,
    cluster: Cluster | None,
    on: tuple[str, ...],
    inventory: Path,
    allow_missing: bool,
    console: Console,
) -> None:
    """Prune, export, check, benchmark, judge and bundle every task of FILE (deploy.yaml).

    Steps whose inputs have not changed are not done again, so a killed run goes on when called again. A task
    that fails stops no other. With --on, and where gates name a device, models are timed on those devices too.
    Reports: report.json, report.html, junit.xml and summary.md in the file's `out`; history.json has earlier runs.

    \b
    Exit codes, of several the first of 1, 6, 7, 2, 5, 3, 4:
      0  all tasks met their gates      4  latency, speed-up or size not met, or too noisy to tell
      1  unexpected error               5  parity not met
      2  usage, config or data          6  a device, package or URL is missing, or another run is at work
      3  accuracy not met               7  a device that is reached by ssh is away
    \b
    Example:
      mvp-deploy run deploy.yaml --jobs 2 --baseline accepted/report.json
      mvp-deploy run deploy.yaml --on pi5,orin --allow-missing
    """
    from mvp_deploy.base.fetching import is_url
    from mvp_deploy.bundle import signing
    from mvp_deploy.pipeline import deployfile, report, tracking
    from mvp_deploy.pipeline.baseline import read_report
    from mvp_deploy.pipeline.publish import publish, refuse_strangers
    from mvp_deploy.pipeline.run import Acceptance, alone, folder, run
    from mvp_deploy.report.ci import OVERVIEW, failures, row
    from mvp_deploy.report.devices import columns_of

    config = deployfile.load(file, changes)
    before = None if baseline is None else read_report(baseline)
    if sign_key is not None:
        signing.public_half(sign_key)
    out = folder(config, file.parent)
    report.refuse_strangers(out)
    asked = [config.tasks[name] for name in only or config.tasks if name in config.tasks]
    gated = [name for task in asked for name in task.gates.devices]
    fleet = fleet_of(dict.fromkeys([*on, *gated]), inventory, allow_missing)
    if dry_run:
        _show_plan(config, file, inventory, only, console)
        return
    store = None if mlflow is None else tracking.Store.open(mlflow)
    if is_url(config.out):
        refuse_strangers(config.out, only or config.tasks)
    with alone(out):
        found = run(
            config,
            file.parent,
            Acceptance(before, sign_key, fleet.devices if fleet else {}, allow_missing),
            inventory=inventory,
            only=only,
            jobs=jobs,
            cluster=cluster,
            reporter=console,
        )
        console.table(OVERVIEW, [row(task) for task in found["tasks"].items()])
        for name, task in found["tasks"].items():
            if task.get("devices"):
                there = columns_of(task)
                console.show(f"\n{name}")
                console.table(*there.table())
                for line in there.remarks():
                    console.show(line)
        console.result(found)
        wrong = failures(found)
        codes = [ExitCode(found["code"])]
        try:
            report.write(found, out)
            if is_url(config.out):
                publish(found, out, config.out)
            console.show(f"\nReport: {config.out if is_url(config.out) else out}/report.html")
            if store is not None:
                store.log(found, out)
        except MvpError as error:  # the tasks' results are still reported
            wrong.append(str(error))
            codes.append(error.code)
    if wrong:
        raise error_of("\n".join(wrong), worst(codes))
    bundle = next((task["bundle"] for task in found["tasks"].values() if task.get("bundle")), None)
    if bundle is not None:
        console.next(f"predict {bundle} PHOTO")


def _show_plan(config: Config, file: Path, inventory: Path, only: tuple[str, ...], console: Console) -> None:
    from mvp_deploy.pipeline.build import plan
    from mvp_deploy.pipeline.progress import Failure
    from mvp_deploy.pipeline.run import settle

    works = settle(config, file.parent, inventory, only, console)
    failed = [work for work in works.values() if isinstance(work, Failure)]
    plans = {
        name: {"error": work.message} if isinstance(work, Failure) else {d.step: d.status for d in plan(work)}
        for name, work in works.items()
    }
    columns = ("prune", "export", "benchmark", "error")
    console.table(["task", *columns], [[name, *(found.get(c, "") for c in columns)] for name, found in plans.items()])
    console.result(plans)
    if failed:
        raise error_of(failed[0].message, worst(work.code for work in failed))
    console.next(f"run {file}")

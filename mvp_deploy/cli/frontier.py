"""mvp-deploy frontier: which backbone, image size and cut to ship, by accuracy and measured milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import BATCH, DURATION, FRACTION, IMAGE_SIZE, SEED, THREADS
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.folders import refuse_inside
from mvp_deploy.cli._common import Console, output_options, resumes
from mvp_deploy.cli._options import options
from mvp_deploy.cli._types import PATH, Listed, Number
from mvp_deploy.exporters.protocol import PRECISIONS
from mvp_deploy.training.config import Training

if TYPE_CHECKING:
    from mvp_deploy.latency.format import Precision
    from mvp_deploy.latency.front import Candidate


@click.command()
@click.argument("data")
@click.option("--backbone", required=True, type=Listed(click.STRING), help="timm backbones, as resnet18,resnet34.")
@click.option("--image-size", default="128", show_default=True, type=Listed(Number(IMAGE_SIZE)),
              help="Image sizes, as 96,128,160.")  # fmt: skip
@click.option("--out", required=True, type=PATH, help="The folder for the models and frontier.json, .svg and .html.")
@click.option("--pretrained", is_flag=True, help="timm's own weights.")
@click.option("--weights", multiple=True, type=PATH, help="A file of weights for each backbone, in their order.")
@click.option("--latency", help="The time to meet, as 4ms: what is slower unpruned is cut to it first.")
@click.option("--on", "profiles", multiple=True, type=PATH,
              help="A profile of one of them: it is cut by milliseconds, the others by MACs. If it is not there, it is "
              "made here, of one backbone and size.")  # fmt: skip
@click.option("--keep-time", "shares", default="0.7,0.5,0.85", show_default=True, type=Listed(Number(FRACTION)),
              help="Cuts to try: shares of the unpruned time, in this order; the empty text cuts nothing.")  # fmt: skip
@click.option("--time-limit", type=Number(DURATION), help="Seconds after which no new candidate is begun.")
@click.option("--runtime", default="onnxruntime", show_default=True, type=click.Choice(["onnxruntime", "openvino"]),
              help="What the models are judged and timed in.")  # fmt: skip
@click.option("--precision", "precisions", default="fp32", show_default=True, type=Listed(click.Choice(PRECISIONS)),
              help="Precisions to try, as fp32,int8: each is judged and timed as what it is.")  # fmt: skip
@options("training", Training(steps=0), "steps", "flip")
@click.option("--threads", default=1, show_default=True, type=Number(THREADS), help="CPU threads of the runtime.")
@click.option("--batch", default=1, show_default=True, type=Number(BATCH), help="Images in a batch.")
@click.option("--seed", default=0, show_default=True, type=Number(SEED), help="For everything that is drawn at random.")
@click.option("--skip-bad", is_flag=True, help="Leave out unreadable images, counting them.")
@output_options
@resumes
def command(
    data: str,
    backbone: tuple[str, ...],
    image_size: tuple[int, ...],
    out: Path,
    pretrained: bool,
    weights: tuple[Path, ...],
    latency: str | None,
    profiles: tuple[Path, ...],
    shares: tuple[float, ...],
    time_limit: float | None,
    runtime: str,
    precisions: tuple[Precision, ...],
    training: Training,
    threads: int,
    batch: int,
    seed: int,
    skip_bad: bool,
    console: Console,
) -> None:
    """Find which model to ship for DATA: backbones, image sizes and cuts by accuracy and measured milliseconds.

    Heads and re-solved layers come in closed form. Every unpruned backbone at every size comes first, so that it shows
    where pruning is not the answer. Leave-one-out accuracy on training images decides; held-out accuracy is reported.
    With --steps the few models on the front are tuned in the end and measured again. It has first results after a
    minute; killed and called again, it goes on.

    \b
    Example:
      mvp-deploy frontier photos --backbone resnet18,resnet34 --image-size 96,128 --pretrained --latency 4ms --out FRONT
    """
    import math
    from dataclasses import asdict

    from mvp_deploy.latency.format import Conditions
    from mvp_deploy.latency.measure import runtime_version
    from mvp_deploy.latency.meet import Target, quantity
    from mvp_deploy.pipeline.asked import Search, Source, profiles_of
    from mvp_deploy.pipeline.frontier import search
    from mvp_deploy.tasks import load_task
    from mvp_deploy.tasks.task import place_of

    if weights and (pretrained or len(weights) != len(backbone)):
        raise InputError("give one --weights file for each backbone, or --pretrained, or neither.")
    if not (backbone and image_size and precisions):
        raise InputError("give at least one --backbone, one --image-size and one --precision.")
    target = None if latency is None else Target(milliseconds=quantity(latency, "ms")).milliseconds
    conditions = Conditions(runtime, "cpu", threads, batch)
    runtime_version(conditions)  # before any work
    refuse_inside(out, place_of(data))
    task = load_task(data, skip_bad=skip_bad)
    for note in task.notes:
        console.warn(note)
    known = profiles_of(profiles, conditions, backbone, image_size, precisions, console)
    sources = [Source(name, pretrained, weights[n] if weights else None) for n, name in enumerate(backbone)]
    cuts = [share for share in shares if share < 1] or None
    asked = Search(task, sources, image_size, conditions, precisions, cuts, target, training, seed, known)
    found = search(asked, out, seconds=time_limit or math.inf, reporter=console)
    console.table(
        ["candidate", "ms", "interval", "accuracy", "interval", "leave-one-out", "MMACs", "on the front"],
        [
            (
                each.name,
                f"{each.ms:.3f}",
                f"{each.milliseconds.low:.3f} to {each.milliseconds.high:.3f}",
                f"{each.accuracy:.1%}",
                f"{each.interval.low:.1%} to {each.interval.high:.1%}",
                f"{each.loo:.1%}",
                f"{each.macs / 1e6:.1f}",
                "yes" if each in found.front else "",
            )
            for each in sorted(found.candidates, key=lambda c: c.ms)
        ],
    )
    best = found.winner(target)
    verdict = found.verdict(target)
    console.show(f"\n{verdict}\n{out / 'frontier.html'}")
    console.result(
        {
            "verdict": verdict,
            "winner": best.name,
            "front": [each.name for each in found.front],
            "candidates": [
                {
                    "name": each.name,
                    "ms": each.ms,
                    "ms_interval": asdict(each.milliseconds),
                    "accuracy": each.accuracy,
                    "interval": asdict(each.interval),
                    "loo": each.loo,
                    "file": each.file,
                }
                for each in found.candidates
            ],
        }
    )
    if best.unpruned:
        console.next(f"bench {out / best.file}")
    else:
        start = "--pretrained" if pretrained else "--weights FILE" if weights else "--checkpoint FILE"
        model = f"--model {best.backbone} {start} --image-size {best.image_size}"
        ships = ("" if runtime == "onnxruntime" else f" --target {runtime}") + (
            "" if best.precision == "fp32" else f" --precision {best.precision}"
        )
        console.next(f"shrink {data} {model} {_budget(best)}{ships} --out OUT")


def _budget(best: Candidate) -> str:
    """What `shrink` is asked for to make a candidate: of other precisions it counts a speed-up from float32."""
    if best.of == "macs":
        return f"--macs {best.share:g}"
    if best.aim or best.precision != "fp32":
        return f"--latency {best.aim or best.ms:.4g}ms"
    return f"--speed-up {1 / best.share:.2f}x"

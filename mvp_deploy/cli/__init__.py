"""The command line: one small module per command, imported only when it is asked for.

A command ``name`` is the attribute ``command`` of the module ``mvp_deploy.cli.name``. Those modules import
torch, timm and the like inside their functions, so ``--help`` answers at once and a device needs neither.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from mvp_deploy import __version__
from mvp_deploy.base.errors import ExitCode, MvpError, of_system

NAMES = (
    "demo", "doctor", "shrink", "bank", "prune", "export", "predict", "evaluate", "profile", "frontier", "bench",
    "verify", "build", "check", "pack", "push", "structure", "init", "run", "devices", "report", "schema",
)  # fmt: skip
INTERRUPTED = 128 + 2  # what shells expect of a command that Ctrl-C (SIGINT, signal 2) ended
DEVICE = ("click", "filelock", "numpy", "onnxruntime", "PIL")  # what the base install brings; [train] brings the rest


class LazyCommands(click.Group):
    """Commands found by name; an expected error ends as one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in NAMES if find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)

    def main(self, args: Sequence[str] | None = None, *positional: Any, **named: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments  # wherever it stands: «run again with --debug» means at the end
        arguments = [argument for argument in arguments if argument != "--debug"]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that this terminal cannot show fails nothing
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(arguments, *positional, **named)
        except Exception as error:
            if debug:
                traceback.print_exc()
            _end(error, debug)


def call_there(name: str) -> None:
    """On a device: ``mvp_deploy.cli.NAME.main()``, whose errors end as one sentence and an exit code too."""
    try:
        import_module(f"{__name__}.{name}").main()
    except Exception as error:
        _end(error, debug=False)


def _end(error: Exception, debug: bool) -> NoReturn:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, MvpError):
        message, code = str(error), error.code
    elif missing and not missing.startswith("mvp_deploy"):
        package = "mvp-deploy" if missing.split(".")[0] in DEVICE else "mvp-deploy[train]"
        message = f"this needs {missing}, which is not installed: pip install '{package}'"
        code = ExitCode.ENVIRONMENT
    elif isinstance(error, UnicodeEncodeError):
        message = f"{error.object[error.start]!r} is not in this locale ({error.encoding}): set PYTHONUTF8=1, try again"
        code = ExitCode.ENVIRONMENT
    elif isinstance(error, ValueError) and str(error) == "embedded null byte":
        message, code = "a path has a NUL in it, which no path may have: check the paths you gave.", ExitCode.INPUT
    elif isinstance(error, OSError):
        message, code = str(of_system(error)), ExitCode.ENVIRONMENT
    else:
        message = f"unexpected {type(error).__name__}: {error}"
        message += "" if debug else " (run again with --debug for the traceback)"
        code = ExitCode.ERROR
    click.echo(f"Error: {message}", err=True)
    sys.exit(int(code))


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mvp-deploy")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (may stand anywhere).")
def main(debug: bool) -> None:
    """From one pretrained backbone to small, fast, measured models, one per task.

    \b
    mvp-deploy demo                                          the whole job on embedded images
    mvp-deploy shrink PHOTOS --model last.pth --macs 0.5 --out SMALL
    mvp-deploy bank init BANK --backbone resnet18            start a bank of pruned tasks
    mvp-deploy bank add BANK data/birds --macs 0.5           prune a task the long way, store it
    mvp-deploy prune data/dogs --bank BANK --macs 0.5 --out RUN
    mvp-deploy export RUN --out BUNDLE
    mvp-deploy bench BUNDLE
    mvp-deploy predict BUNDLE photo.jpg

    Exit codes: 0 done, 1 unexpected error, 2 usage or input, 3 accuracy, 4 latency or size, 5 parity,
    6 environment, 7 a device is away, 130 Ctrl-C.
    """

"""Commands in processes of their own, without importing torch each time: they are forked off a process that has it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TextIO

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mvp_deploy.runs.run", "mvp_deploy.bank.add", "mvp_deploy.cli.prune"])


def start(*arguments: object) -> tuple[BaseProcess, TextIO]:
    """``mvp-deploy ARGUMENTS``, at work; and what it says on stderr, to read from."""
    ours, theirs = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_command, args=([str(argument) for argument in arguments], theirs))
    process.start()
    theirs.close()
    return process, os.fdopen(os.dup(ours.fileno()), encoding="utf-8")


def _command(arguments: list[str], stderr: Connection) -> None:
    from mvp_deploy.cli import main

    os.dup2(stderr.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    main(arguments)

"""Calling a function in a process of its own: a fresh Python that takes no code from the current folder."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

T = TypeVar("T")

# Python itself puts the current folder first, where a downloaded bundle may have a json.py: so the path comes before
# any import. The child's standard output is for the answer alone.
BEGIN = "import sys; sys.path[:] = {path}; from mvp_deploy.base.processes import _serve; _serve()"


def apart(function: Callable[..., T], *arguments: Any, quiet: bool = False) -> T:
    """What the function gives, called in a process of its own; it ends with this one, whatever ends this one.

    Args:
        function: a module's own, with arguments and a result that pickle takes.
        quiet: drop what it writes to standard error.

    Raises:
        ChildProcessError: the process died before it answered.
        Exception: what the function raised.
    """
    call = [sys.executable, "-c", BEGIN.format(path=repr([place for place in sys.path if place]))]
    errors = subprocess.DEVNULL if quiet else None
    try:
        with subprocess.Popen(
            call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as child:  # in a session of its own it does not hear Ctrl-C, which is this process's to answer
            question, answer = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
            try:
                pickle.dump(pickle.dumps((function, arguments)), question)
                question.flush()
                failed, found = pickle.load(answer)
            finally:
                child.kill()
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise ChildProcessError("the process ended before its work was done") from error
    if failed:
        raise found
    return cast(T, found)


def _serve() -> None:
    """The child: read the call, make it, write its result."""
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what the function prints is not the answer
        call = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_follow, daemon=True).start()  # before what the call needs is imported
        try:
            function, arguments = pickle.loads(call)
            found = pickle.dumps((False, function(*arguments)))
        except Exception as error:
            found = _raised(error)
        answer.write(found)
    os._exit(0)  # other threads may still run, and have nothing more to do


def _follow() -> None:
    """End with the parent: its end of the pipe is closed when it ends, or has its answer.

    Not through `sys.stdin`, whose lock would be held: what a library forks here, as OpenVINO does, would wait for it.
    """
    while os.read(0, 1):
        pass
    os._exit(1)


def _raised(error: Exception) -> bytes:
    try:
        content = pickle.dumps((True, error))
        pickle.loads(content)  # some exceptions pickle, and cannot be made again
    except Exception:
        return pickle.dumps((True, RuntimeError(f"{type(error).__name__}: {error}")))
    return content

"""Runs the command line in children that can be killed, and imports torch only once.

Every line of the input is a JSON object: ``args``, and ``kill_after`` (seconds) or ``die_at`` (the number of the
operation on files of `energynet.track` at which the child kills itself, half way through if it is a
write). Every line of the output is the exit status, negative for a signal, and the seconds it took.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from energynet import cli, track


class Mortal:
    """The module ``os``, but one operation is the last."""

    WATCHED = ("open", "write", "fsync", "close", "replace", "truncate", "unlink")

    def __init__(self, die_at: int) -> None:
        self.left = die_at

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if name not in self.WATCHED:
            return original

        def operation(*args: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                if name == "write":
                    os.write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return operation


def child(request: dict[str, Any]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if request.get("die_at"):
        track.os = Mortal(request["die_at"])  # type: ignore[assignment]
    code = 70
    try:
        code = cli.main(request["args"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(request)
        if request.get("kill_after") is not None:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)  # it is not reaped yet, so the id is still its own
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([status, time.monotonic() - start]), flush=True)


if __name__ == "__main__":
    main()

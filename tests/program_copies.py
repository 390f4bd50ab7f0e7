"""The program for shell scripts that call it often: each call is done by a copy of a process that has imported it.

``python -S program_copies.py SOCKET WORDS...`` stands for ``python -m unimixer WORDS...``. The copy has the folder, the
variables, the streams and the group of its caller, so that a signal to the group reaches both.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

_MESSAGE = 2**18
_KILLED = 128 + signal.SIGKILL


def serve(address: str) -> None:
    """Answer calls until the end of this process."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    import unimixer.cli.export
    import unimixer.cli.train  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a copy but its caller
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            line, _ = listener.accept()
            if os.fork() == 0:
                _answer(line)
            line.close()


def _answer(line: socket.socket) -> NoReturn:
    from multiprocessing.connection import Connection

    from own_process import do, run_program

    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        text, streams, *_ = socket.recv_fds(line, _MESSAGE, 2)
        asked: dict[str, Any] = json.loads(text)
        os.setpgid(0, asked["group"])  # fails if the caller was killed meanwhile
        os.chdir(asked["folder"])
        do(run_program, (asked["words"],), asked["variables"], *(Connection(one, readable=False) for one in streams))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        line.send(bytes([code]))
        os._exit(code)


def call(address: str, words: list[str]) -> int:
    """Let a copy do a command; return its exit code."""
    asked = {"words": words, "folder": str(Path.cwd()), "variables": dict(os.environ), "group": os.getpgrp()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(address)
        socket.send_fds(line, [json.dumps(asked).encode()], [1, 2])
        answer = line.recv(1)
    return answer[0] if answer else _KILLED


if __name__ == "__main__":
    sys.exit(call(sys.argv[1], sys.argv[2:]))

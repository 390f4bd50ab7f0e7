"""Run a command line inside the process of a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of the output."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def error(self) -> str:
        """The one sentence of a refused command."""
        assert len(self.err.splitlines()) == 1, self
        return self.last_error

    @property
    def last_error(self) -> str:
        """The same for a command that said more before it was refused."""
        assert self.code == 2, self
        line = self.err.splitlines()[-1]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def runner(main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A function that runs commands by their words."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run

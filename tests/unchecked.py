"""One process without the suite's shape checks, through which torch.compile and the exporters cannot trace.

It is started by the first test that needs it and serves the others too: importing torch, its compiler and the networks
takes longer than most of what is asked of it.  As a program it answers one line of JSON with one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class UncheckedProcess:
    """Calls functions of the tests over there; ends with `close`, or with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)

    def failure(self, function: str, *arguments: object) -> str:
        """What "module:function"(*arguments) raised over there, as text; empty where it returned."""
        if self._process is None or self._process.poll() is not None:
            environment = {
                **os.environ, "SEGFOCUS_TYPE_HOOK": "0", "JAXTYPING_DISABLE": "1", "PYTHONWARNINGS": "ignore"
            }  # fmt: skip
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.unchecked"], cwd=Path(__file__).parents[1], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, *map(_plain, arguments)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return json.loads(answer)
        code = self._process.wait()
        self._errors.seek(0)
        return f"{function} ended the process with status {code}: {self._errors.read()[-3000:]}"

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
        self._errors.close()


def _plain(argument: object) -> object:
    return str(argument) if isinstance(argument, Path) else argument


def main() -> None:
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what exporters print is no answer
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        module, _, function = name.partition(":")
        try:
            torch.manual_seed(0)
            getattr(importlib.import_module(module), function)(*arguments)
            text = ""
        except Exception:
            text = traceback.format_exc()[-5000:]
        torch.compiler.reset()  # nothing that one network left behind serves the next
        answers.write(json.dumps(text) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

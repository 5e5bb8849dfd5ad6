"""The limit of memory: `benches/limit.rs`, a process of its own that moves as many bytes as the rule."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from ..workloads import Array, initial, norms
from . import Contender, MissingError

ROOT = Path(__file__).parents[2]


@cache
def program() -> str:
    """The program, built if need be."""
    command = "cargo build --locked --release --example limit --message-format json-render-diagnostics"
    try:
        built = subprocess.run(command.split(), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingError(f"cannot be built: {error}") from error
    messages = map(json.loads, built.stdout.splitlines())
    return next(str(m["executable"]) for m in messages if m.get("target", {}).get("name") == "limit")


class Steps(Contender):
    """As many elements as the model has, in one piece. There is no answer to check."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        sizes = sum(x.size for x in model), len(initial(rule)), norms(rule), self.threads
        command = [program(), *map(str, sizes), self.mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, steps: int) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        return float(self.process.stdout.readline())

    def step(self) -> None:
        self.run(1)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

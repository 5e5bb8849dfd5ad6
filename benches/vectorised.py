"""Fails where a loop over elements is not vectorised: `make vectorised`.

Builds the extension module as it ships, but with its symbols, disassembles it (`objdump`, from the binutils that the
linker comes from) and looks at every loop of `rust/loops/kernel.rs`: every rule, in place, pure, pure past the caches,
and as a link of a chain, for every element type and instruction set. Each must hold an innermost loop that computes and
stores whole registers of its instruction set and nothing one element at a time. Divisions and roots of the loop for
the last few elements must be in one of those, too. It is no timing: the answer depends on the compiler alone.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = (
    "cargo rustc --locked --release --lib --crate-type cdylib --features python"
    " --message-format json-render-diagnostics"
)
REGISTER = {"baseline": "%xmm", "avx2": "%ymm", "avx512": "%zmm"}
NAME = re.compile(
    r"run::(?P<mode>in_place|pure|pure_far|link)::(?P<level>baseline|avx2|avx512)::<optirs::rules::\w+::(?P<rule>\w+), "
    r"(?P<type>f32|f64|num_complex::Complex<f32>|num_complex::Complex<f64>)[,>]"
)
TYPES = {"f32": "float32", "f64": "float64"}
TYPES |= {f"num_complex::Complex<{part}>": kind for part, kind in (("f32", "complex64"), ("f64", "complex128"))}
ARITHMETIC = re.compile(r"v?(add|sub|mul|div|sqrt|max|min|cmp\w*)p[sd]$")
SCALAR = re.compile(r"v?(add|sub|mul|div|sqrt|max|min)s[sd]$")
SLOW = re.compile(r"v?(div|sqrt)[sp][sd]$")
STORE = re.compile(r"v?mov(up|ap|dq|nt)\w*$")

REAL_ONLY = {"Box", "ClipGrad", "Rprop"}  # no complex parameter gets that far
IDLE = {"SkipNonFinite"}  # passes gradients on, so that its loops never run
# With two numbers a register and no blend instruction the compiler reckons that branches are cheaper.
BRANCHES = {("Rprop", "float64"), ("AdaMax", "complex128"), ("Lion", "complex128"), ("SignDecay", "complex128")}
# The same function of scalars, gradient and state, so that the compiler keeps one of the two.
TWINS = {"RAdam": "Adam", "ClipNorm": "ClipGlobalNorm"}
# Half of a register or a quarter, since the compiler takes one complex number at a time, both parts at once.
HALVES = {("AccumGrad", "complex128")}
# Here the compiler takes one complex number at a time, both parts at once.
FAR = {("AccumGrad", "complex128"), ("Ema", "complex128"), ("Momentum", "complex128"), ("Nesterov", "complex128")}


class Loop(NamedTuple):
    """One loop of the source, as it was compiled."""

    rule: str
    type: str
    mode: str
    level: str

    def __str__(self) -> str:
        return f"{self.rule} {self.type} {self.mode} {self.level}"


class Instruction(NamedTuple):
    """A line of the disassembly."""

    at: int
    name: str
    operands: str


def build() -> Path:
    """The extension module, with symbols that name types."""
    environment = {**os.environ, "CARGO_PROFILE_RELEASE_STRIP": "none", "PYO3_BUILD_EXTENSION_MODULE": "1"}
    command = [*BUILD.split(), "--", "-C", "symbol-mangling-version=v0"]
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    messages = map(json.loads, run.stdout.splitlines())
    [made] = [m for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "optirs"]
    return Path(made["filenames"][0])


def functions(library: Path) -> Iterator[tuple[str, list[Instruction]]]:
    """The functions of the library and what they consist of."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    for part in text.split("\n\n"):
        head, _, body = part.strip().partition("\n")
        fields = [line.split("\t") for line in body.splitlines()]
        code = [(int(f[0].strip(" :"), 16), *f[1].split(None, 1)) for f in fields if len(f) == 2 and f[1].strip()]
        yield head, [Instruction(c[0], c[1], c[2] if len(c) > 2 else "") for c in code]


def innermost(code: list[Instruction]) -> list[list[Instruction]]:
    """The parts between a backward jump and its target that hold no other such part."""
    spans = []
    for i in code:
        if i.name.startswith("j") and (target := re.match(r"([0-9a-f]+) ", i.operands)):
            start = int(target[1], 16)
            if code[0].at <= start <= i.at:
                spans.append((start, i.at))
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [[i for i in code if start <= i.at <= end] for start, end in inner]


def is_vectorised(loop: list[Instruction], register: str) -> bool:
    """Whether all of it works on whole registers."""
    computes = any(ARITHMETIC.match(i.name) and register in i.operands for i in loop)
    stores = any(STORE.match(i.name) and re.match(rf"{register}\d+,.*\(", i.operands) for i in loop)
    return computes and stores and not any(SCALAR.match(i.name) for i in loop)


def slow(code: list[Instruction]) -> set[str]:
    """Which of division and root there are."""
    return {found[1] for i in code if (found := SLOW.match(i.name))}


def fault(loop: Loop, code: list[Instruction]) -> str | None:
    """What is wrong with the loop, if anything."""
    kind = (loop.rule, loop.type)
    if (loop.level == "baseline" and kind in BRANCHES) or (loop.mode == "pure_far" and kind in FAR):
        return None
    register = REGISTER["baseline" if kind in HALVES else loop.level]
    loops = innermost(code)
    good = [part for part in loops if is_vectorised(part, register)]
    if not good:
        return f"no loop on whole {register} registers"
    lost = {name for part in loops for name in slow(part)} - {name for part in good for name in slow(part)}
    return f"{' and '.join(sorted(lost))} one at a time" if lost else None


def expected() -> Iterator[Loop]:
    """Every loop that there must be, by the sources of the rules."""
    sources = "".join(path.read_text() for path in sorted((ROOT / "rust" / "rules").glob("*.rs")))
    for rule in re.findall(r"impl Elementwise for (\w+)", sources):
        for kind, mode, level in product(TYPES.values(), ("in_place", "pure", "pure_far", "link"), REGISTER):
            if rule not in IDLE and (rule not in REAL_ONLY or not kind.startswith("complex")):
                yield Loop(rule, kind, mode, level)


def main() -> int:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"not checked: this looks at x86-64 code, and this is {platform.machine()}")
        return 0
    found: dict[Loop, str | None] = {}
    for head, code in functions(Path(sys.argv[1]) if len(sys.argv) > 1 else build()):
        if name := NAME.search(head):
            loop = Loop(name["rule"], TYPES[name["type"]], name["mode"], name["level"])
            found[loop] = fault(loop, code)
    faults = {}
    for loop in expected():
        twin = loop._replace(rule=TWINS.get(loop.rule, loop.rule))
        why = found.get(loop, found.get(twin, "not found"))
        if why:
            faults[loop] = why
    print(f"{len(list(expected()))} loops, {len(faults)} not vectorised")
    for loop, why in faults.items():
        print(f"  {loop}: {why}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

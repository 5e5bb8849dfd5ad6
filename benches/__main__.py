"""`python -m benches`: measures, prints the table, and writes the record and the plots. See README.md."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from . import means, plot, protocol, record, scale, table
from .protocol import FULL, QUICK
from .workloads import TABLE, WORKLOADS, cases, rules

# What `--quick` measures: the workloads that are not made of much the same, with the rules that everybody has.
QUICK_WORKLOADS = ("a2", "b", "c", "d", "f", "g")
QUICK_RULES = ("Descent", "Adam", "ClipNorm > AdamW")
QUICK_LARGE = ("Adam",)  # of as many numbers or arrays as take long to make ready
QUICK_ALONE = ("d", "f")  # on one thread: there is nothing for a second one to do


def names(text: str) -> list[str]:
    """A list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def positive(text: str) -> int:
    """A number of at least one."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser("python -m benches", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some rules, three rounds: under three minutes")
    parser.add_argument("--only", type=names, default=list(TABLE), metavar="WORKLOAD,...", help="some workloads")
    parser.add_argument("--rules", type=names, metavar="RULE,...", help="some rules")
    parser.add_argument("--peers", type=names, metavar="PEER,...", help="some contenders beside optirs and the limit")
    parser.add_argument("--threads", type=names, default=["1", "2"], metavar="N,...", help="threads (1,2)")
    parser.add_argument("--processes", type=positive, metavar="N", help="of each contender (from memory 6, else 3)")
    parser.add_argument("--scale", action="store_true", help="time and memory from 10^5 parameters on, instead")
    parser.add_argument("--means", nargs="?", type=names, const=list(means.MEANS), metavar="MEANS,...",
                        help="the package beside itself without its means of being fast, instead")  # fmt: skip
    parser.add_argument("--table", nargs="?", type=Path, const="", metavar="RECORD",
                        help="print today's record again, or another one, measuring nothing")  # fmt: skip
    args = parser.parse_args()
    if unknown := set(args.only) - set(WORKLOADS):
        parser.error(f"no workload {min(unknown)!r}; there are {', '.join(TABLE)}")
    if unknown := set(args.means or ()) - set(means.MEANS):
        parser.error(f"no means {min(unknown)!r}; there are {', '.join(means.MEANS)}")
    if unknown := set(args.rules or ()) - set(rules()):
        parser.error(f"no rule {min(unknown)!r}; there are {', '.join(rules())}")
    return args


def chosen(args: argparse.Namespace, workload: str) -> list[str]:
    """The cases of a workload that are measured."""
    found = cases(workload)
    if WORKLOADS[workload].kind != "Steps":
        return found
    quick = QUICK_LARGE if WORKLOADS[workload].elements > 1e5 else QUICK_RULES
    wanted = args.rules or (quick if args.quick else found)
    return [case for case in found if case in wanted]


def main() -> int:
    args = arguments()
    effort = QUICK if args.quick else FULL
    if args.processes:
        effort = replace(effort, from_memory=args.processes, in_cache=args.processes)
    file = (args.table or record.path("-quick" if args.quick else "")).resolve()
    if args.table is not None and not file.exists():
        raise SystemExit(f"no record {file.name}")
    if args.scale:
        whole = record.merge(file, "scale", scale.measure(), scale.KEY)
    elif args.means:
        whole = {}
        for found in means.run(args.means, replace(effort, in_cache=effort.from_memory)):
            whole = record.merge(file, "means", found, means.KEY)
    elif args.table is not None:
        whole = record.read(file)
    else:
        whole = {}
        for workload in args.only:
            if args.quick and workload not in QUICK_WORKLOADS:
                continue
            for threads in map(int, args.threads):
                if args.quick and threads > 1 and workload in QUICK_ALONE:
                    continue
                start, who = time.monotonic(), protocol.contenders(workload, args.peers, args.quick)
                for found in protocol.run(who, workload, chosen(args, workload), threads, effort):
                    whole = record.merge(file, "results", found)
                print(f"({workload}) {threads} threads: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(table.text(whole))
    if args.quick and args.peers is None:
        print(f"  --quick has no steps of {', '.join(protocol.SLOW)}")
    if args.table is None:
        print(f"\nRecord: {file.name}; plots: {', '.join(plot.save(whole, file))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

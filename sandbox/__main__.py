"""`python -m sandbox doctor | self-check | bench`: what works here, whether it holds, and what it costs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from sandbox.isolation import IsolationLevel
from sandbox.proof.command_line import bench, doctor, self_check


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="try every way to isolate kernels and say how to get the best")
    check = commands.add_parser("self-check", help="try every claim of the README's table, in a few minutes")
    check.add_argument("--write", metavar="README", help="put the table there, if every claim holds")
    speed = commands.add_parser("bench", help="measure starts, round trips and memory")
    speed.add_argument("--kernels", type=int, default=64, help="sessions at once (default: %(default)s)")
    for command in (check, speed):
        command.add_argument("--level", choices=["auto", *reversed(IsolationLevel)], default="auto")
    options = parser.parse_args(arguments)
    logging.getLogger("sandbox").setLevel(logging.ERROR)
    if options.command == "doctor":
        work = doctor()
    elif options.command == "self-check":
        work = self_check(options.level, options.write)
    else:
        work = bench(options.level, options.kernels)
    return asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main())

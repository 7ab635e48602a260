#!/usr/bin/env python3
"""Breaks a rule at a time, and sees that the simulation notices within so many seeds.

    make sim-mutants                        # all of them
    make sim-mutants ARGS="limit-passed"    # these

Rules of the policy are broken by the patches in scripts/mutants/sim/, in the worktree that scripts/mutants.py uses; rules that
stand in the order of the shells' steps by `BUG=<name>`. Exit code 1: no seed noticed one of them.
"""

import os
import re
import sys
import time

import mutants
from common import SCRIPTS, Failed, step

PATCHES = SCRIPTS / "mutants" / "sim"
SEEDS = os.environ.get("SEEDS") or "2000"
RUN_SECONDS_MAX = 900
# As `tollgate_sim::bug::Bug` names them.
BUGS = ["router-acks-first", "worker-acks-first", "no-claim", "usage-not-repeated", "end-not-fenced",
        "tries-not-taken-over", "cut-call-counted-late"]


def build(env):
    command = ["cargo", "build", "--quiet", "--package", "tollgate-sim"]
    code, out = mutants.output_of(command, env, mutants.BUILD_SECONDS_MAX)
    if code != 0:
        raise Failed("it does not build:\n" + out[-2000:])
    return str(mutants.BUILD / "debug" / "sim")


def noticed(env, program, bug=""):
    """(seed, what it said); None if no seed noticed."""
    env = dict(env, SEEDS=SEEDS, SEED="", FIRST="", TRACE="", BUG=bug)
    code, out = mutants.output_of([program], env, RUN_SECONDS_MAX)
    if code == 0:
        return None
    found = re.search(r"^BROKEN (.*?): (.*)$", out, re.MULTILINE)
    return (found.group(1), found.group(2)[:110]) if found else ("?", "exit code {}".format(code))


def main(names):
    patches = sorted(PATCHES.glob("*.patch"))
    known = [path.stem for path in patches] + BUGS
    unknown = set(names) - set(known)
    if unknown:
        raise Failed("no such mutant: " + ", ".join(sorted(unknown)))
    env = dict(os.environ, CARGO_TARGET_DIR=str(mutants.BUILD), CARGO_TERM_COLOR="never")
    mutants.make_tree()
    step("without a mutant")
    program = build(env)
    said = noticed(env, program)
    if said:
        raise Failed("something is broken without any mutant: {}: {}".format(*said))
    rows = [(bug, noticed(env, program, bug)) for bug in BUGS if not names or bug in names]
    for path in patches:
        if names and path.stem not in names:
            continue
        start = time.monotonic()
        try:
            mutants.git("apply", str(path))
            rows.append((path.stem, noticed(env, build(env))))
        finally:
            mutants.clean()
        print("{}: {}, {:.0f} s".format(path.stem, rows[-1][1], time.monotonic() - start), flush=True)
    step("{} mutants, {} seeds".format(len(rows), SEEDS))
    for name, said in rows:
        print("{:26} {:12} {}".format(name, *(said or ("SURVIVED", ""))))
    return 0 if all(said for _, said in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

#!/usr/bin/env python3
"""Breaks the protocol on purpose, one rule at a time, and sees that a run of faults drawn from some seed notices.

    make chaos-mutants                      # all mutants that are marked for it
    make chaos-mutants ARGS="no-claim"      # these

Of scripts/mutants/ those with a line `# chaos`. Each is built in the worktree that scripts/mutants.py uses; then `chaos`
runs with one seed after the other until a promise is broken. Exit code 1: no seed noticed one of them.
"""

import os
import sys
import time

import mutants
import nats_server
from common import Failed, step

SEEDS = (os.environ.get("SEEDS") or "1 2 3 4 5 6 7 8").split()
REQUESTS = os.environ.get("REQUESTS") or "1200"
RATE = os.environ.get("RATE") or "60"
FAULTS = os.environ.get("FAULTS") or "60"
RUN_SECONDS_MAX = 420


def marked():
    paths = sorted(mutants.MUTANTS.glob("*.patch"))
    return [mutants.Mutant(path) for path in paths if "\n# chaos\n" in path.read_text(encoding="utf-8")]


def build(env):
    command = ["cargo", "build", "--quiet", "--package", "tollgate", "--package", "tollgate-tests",
               "--bin", "tollgate", "--bin", "chaos"]
    code, out = mutants.output_of(command, env, mutants.BUILD_SECONDS_MAX)
    if code != 0:
        raise Failed("it does not build:\n" + out[-2000:])
    return str(mutants.BUILD / "debug" / "chaos")


def broken_by(env, program, seed):
    """What the run says is broken; None if nothing is."""
    env = dict(env, SEED=seed, SEEDS="", REQUESTS=REQUESTS, RATE=RATE, FAULTS=FAULTS)
    code, out = mutants.output_of([program], env, RUN_SECONDS_MAX)
    if code == 0:
        return None
    lines = [line.strip() for line in out.splitlines() if line.strip().startswith("BROKEN ")]
    return lines[0][:150] if lines else ("it did not end" if code is None else "exit code {}".format(code))


def attempt(env, mutant):
    """(seed, what it broke, seconds); no seed if none noticed."""
    try:
        mutants.git("apply", str(mutant.path))
        program = build(env)
        start = time.monotonic()
        for seed in SEEDS:
            said = broken_by(env, program, seed)
            if said:
                return seed, said, time.monotonic() - start
        return None, "", time.monotonic() - start
    finally:
        mutants.clean()


def main(names):
    chosen = [mutant for mutant in marked() if not names or mutant.name in names]
    if not chosen:
        print("no mutant of these names is marked for chaos", file=sys.stderr)
        return 1
    env = mutants.environment()
    mutants.make_tree()
    rows = []
    for mutant in chosen:
        step("{}: {}".format(mutant.name, mutant.what))
        seed, said, seconds = attempt(env, mutant)
        print("{}, {:.0f} s: {}".format("seed " + seed if seed else "SURVIVED", seconds, said), flush=True)
        rows.append((mutant.name, seed, said))
    print()
    for name, seed, said in rows:
        print("{:28} {:10} {}".format(name, "seed " + seed if seed else "SURVIVED", said))
    return 0 if all(seed for _, seed, _ in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failed, nats_server.Unavailable) as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

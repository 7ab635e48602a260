#!/usr/bin/env python3
"""Breaks the protocol on purpose, one rule at a time, and sees that the test which guards the rule fails.

    make mutants                      # all of them
    make mutants ARGS="no-claim"      # these

A mutant is a patch in scripts/mutants/, with lines before it that say what it breaks and which tests must fail:

    # A worker calls the provider without having claimed the request.
    # must fail: <package> <part of the tests' names>

They are applied to a worktree of HEAD in target/mutants/, which has a target folder of its own, kept between runs. First
the tests have to pass without a mutant. Exit code 1: a mutant survived, or one could not be tried.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nats_server
from common import ROOT, SCRIPTS, Failed, step

MUTANTS = SCRIPTS / "mutants"
HOME = ROOT / "target" / "mutants"
# Always in the same place, because cargo knows what it has built by its path.
TREE = HOME / "tree"
BUILD = HOME / "build"

BUILD_SECONDS_MAX = 3600
TEST_SECONDS_MAX = 900
MUST_FAIL = "# must fail: "


class Mutant:
    def __init__(self, path):
        self.path = path
        self.name = path.stem
        lines = path.read_text(encoding="utf-8").splitlines()
        self.what = lines[0][2:] if lines and lines[0].startswith("# ") else ""
        self.tests = [tuple(line[len(MUST_FAIL):].split(" ", 1)) for line in lines if line.startswith(MUST_FAIL)]
        if not self.what or not self.tests or any(len(test) != 2 for test in self.tests):
            raise Failed("{}: expected `# what it breaks` and `{}<package> <test>`".format(path.name, MUST_FAIL))


def git(*arguments, cwd=TREE):
    done = subprocess.run(["git", *arguments], cwd=str(cwd), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Failed("git {}: {}".format(" ".join(arguments), done.stdout.decode(errors="replace").strip()))


def make_tree():
    """A clean worktree of HEAD. What an interrupted run left behind is taken over."""
    git("worktree", "prune", cwd=ROOT)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=str(ROOT), universal_newlines=True).strip()
    if (TREE / ".git").exists():
        clean()
        git("checkout", "--quiet", "--detach", head)
    else:
        shutil.rmtree(str(TREE), ignore_errors=True)
        HOME.mkdir(parents=True, exist_ok=True)
        git("worktree", "add", "--quiet", "--force", "--detach", str(TREE), head, cwd=ROOT)


def clean():
    git("reset", "--quiet", "--hard")
    git("clean", "--quiet", "--force", "-d")


def environment():
    target = str(BUILD)
    return dict(
        os.environ,
        CARGO_TARGET_DIR=target,
        TOLLGATE_BIN=str(BUILD / "debug" / "tollgate"),
        TOLLGATE_NATS_SERVER=nats_server.ensure(),
        CARGO_TERM_COLOR="never",
    )


def output_of(command, env, seconds_max, folder=TREE):
    """Exit code (None: it took too long) and output of a command, which ends with everything it started."""
    process = subprocess.Popen(
        command, cwd=str(folder), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        out, _ = process.communicate(timeout=seconds_max)
        return process.returncode, out.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            # Its session is its process group: the test and what runs in its group.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def build(env, packages):
    """Builds the broker and all tests of these packages in one go; the test programs by package.

    Always the same packages, so that features are resolved the same way and dependencies are built once.
    """
    command = ["cargo", "build", "--message-format", "json", "--bins", "--tests", "--package", "tollgate"]
    for package in packages:
        command += ["--package", package]
    code, out = output_of(command, env, BUILD_SECONDS_MAX)
    programs, errors = {}, []
    for line in out.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said.get("reason") == "compiler-message" and said["message"]["level"] == "error":
            errors.append(said["message"]["rendered"])
        if said.get("reason") == "compiler-artifact" and said["profile"]["test"] and said["executable"]:
            manifest = Path(said["manifest_path"])
            package = re.search(r'^name = "(.*)"$', manifest.read_text(encoding="utf-8"), re.MULTILINE).group(1)
            programs.setdefault(package, []).append((said["executable"], manifest.parent))
    if code != 0:
        raise Failed("it does not build:\n" + ("\n".join(errors) or out[-2000:]))
    return programs


def passes(env, programs, test):
    """Whether the tests of this name pass; and that there are some."""
    package, name = test
    ran, good = 0, True
    for program, folder in programs.get(package, []):
        code, out = output_of([program, name], env, TEST_SECONDS_MAX, folder)
        ran += sum(int(count) for count in re.findall(r"^running (\d+) tests?$", out, re.MULTILINE))
        good = good and code == 0
    if good and ran == 0:
        raise Failed("{} has no test {}".format(package, name))
    return good


def unbroken(env, packages, mutants):
    """Without a mutant every test has to pass: else its failing says nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    programs = build(env, packages)
    for test in tests:
        start = time.monotonic()
        if not passes(env, programs, test):
            raise Failed("{} fails without any mutant".format(" ".join(test)))
        print("{:60} passes, {:.0f} s".format(" ".join(test), time.monotonic() - start), flush=True)


def attempt(env, packages, mutant):
    """One row for each test of a mutant: (name, test, verdict, seconds)."""
    try:
        git("apply", str(mutant.path))
        programs = build(env, packages)
        for test in mutant.tests:
            start = time.monotonic()
            verdict = "SURVIVED" if passes(env, programs, test) else "caught"
            yield mutant.name, " ".join(test), verdict, time.monotonic() - start
    except Failed as failed:
        print("{}: {}".format(mutant.name, failed), file=sys.stderr, flush=True)
        yield mutant.name, "-", "NOT TRIED", 0.0
    finally:
        clean()


def run(names):
    mutants = [Mutant(path) for path in sorted(MUTANTS.glob("*.patch"))]
    unknown = set(names) - {mutant.name for mutant in mutants}
    if unknown:
        raise Failed("no such mutant: " + ", ".join(sorted(unknown)))
    packages = sorted({package for mutant in mutants for package, _ in mutant.tests})
    mutants = [mutant for mutant in mutants if not names or mutant.name in names]
    env = environment()
    make_tree()
    step("without a mutant")
    unbroken(env, packages, mutants)
    rows = []
    for mutant in mutants:
        step("{}: {}".format(mutant.name, mutant.what))
        for row in attempt(env, packages, mutant):
            print("{1:60} {2}, {3:.0f} s".format(*row), flush=True)
            rows.append(row)
    step("{} mutants".format(len(mutants)))
    form = "{:28} {:60} {:10} {:>7}"
    print(form.format("mutant", "test", "verdict", "seconds"))
    for name, test, verdict, seconds in rows:
        print(form.format(name, test, verdict, "{:.0f}".format(seconds)))
    return all(verdict == "caught" for _, _, verdict, _ in rows)


def main():
    try:
        return 0 if run(sys.argv[1:]) else 1
    except (Failed, nats_server.Unavailable) as failed:
        print(failed, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

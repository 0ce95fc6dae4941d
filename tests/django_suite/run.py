#!/usr/bin/env python3
"""Run Django's own cache and session tests against the ring, on every combination that is supported.

  run.py            this machine's Python and Redis, and what the lab's Debian 13 has (`lab.py image warm`)
  run.py here       only this machine's
  run.py lab        only the lab's

Django's tests come with its source package, by pip. Nothing is prepared by hand; packages and sources stay in
.cache/django_suite.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/django_suite"
IN_LAB = "/suite"
QUIET = ("--quiet", "--disable-pip-version-check")


def pinned(package: str) -> str:
    """Return the version in requirements.txt."""
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"django_suite: requirements.txt does not pin {package}")
    return found[1]


class Combination(NamedTuple):
    """What the client is run with. Python is that of the place."""

    place: str
    django: str
    redis_py: str
    server: str = "redis-server"


LTS = pinned("django")
NEWEST = "6.1.3"
OLDEST_REDIS_PY = "6.0.0"
COMBINATIONS = [
    Combination("here", LTS, pinned("redis")),
    Combination("lab", LTS, OLDEST_REDIS_PY),
    Combination("lab", NEWEST, pinned("redis")),
    Combination("lab", NEWEST, pinned("redis"), "valkey-server"),
]
# Of Django's source package: its tests of what the ring serves, and what they import.
PARTS = ("cache", "sessions_tests", "template_tests", "urls.py")


def fetch(version: str) -> None:
    """Get Django's tests, once, by pip and out of its source package."""
    tests = CACHE / f"django-{version}/tests"
    if tests.is_dir():
        return
    # pip looks at the metadata, for which it would set up setuptools anew for each package.
    builder = environment("builder", "setuptools>=77", "wheel")
    download = [str(builder), "-m", "pip", "download", *QUIET, "--no-deps", "--no-build-isolation"]
    run([*download, "--no-binary=:all:", "--ignore-requires-python", f"--dest={CACHE}", f"django=={version}"])
    # Not by tarfile, whose safe way Debian 12's Python does not have yet.
    wanted = [f"django-{version}/tests/{part}" for part in PARTS]
    run(["tar", "-xzf", str(CACHE / f"django-{version}.tar.gz"), "-C", str(CACHE), *wanted])


def environment(name: str, *packages: str) -> Path:
    """Return the Python of a virtual environment with these packages and nothing else, made once."""
    directory = CACHE / name
    python = directory / "bin/python"
    if not (directory / "ready").exists():
        venv.create(directory, with_pip=True, clear=True)
        run([str(python), "-m", "pip", "install", *QUIET, *packages])
        (directory / "ready").touch()
    return python


def run(command: list[str], **variables: str) -> str:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    if result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout)
    return result.stdout


def lab() -> str:
    """Run this file in a lab container, with Debian 13's Python and servers."""
    run([sys.executable, str(ROOT / "tools/lab.py"), "image", "warm"], WEBSTACK_LAB_RELEASE="13")
    prepare = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y valkey-tools >/dev/null"
    # Debian's *-tools package carries the server's program and starts no service; see tools/setup.sh.
    valkey = "ln -s valkey-check-rdb /usr/bin/valkey-server"
    volumes = (f"--volume={ROOT}:{IN_LAB}:ro", f"--volume={CACHE}:{IN_LAB}/.cache/django_suite")
    inside = f"{prepare} && {valkey} && exec python3 {IN_LAB}/tests/django_suite/run.py inside-lab"
    return run(["docker", "run", "--rm", *volumes, "--entrypoint=sh", "webstack-lab:13-warm", "-c", inside])


def here(place: str) -> str:
    """Run a place's combinations side by side: the tests sleep most of their time, waiting for keys to expire."""
    suite = str(ROOT / "tests/django_suite/suite.py")
    calls = []
    for each in COMBINATIONS:
        if each.place == place:
            packages = (f"django=={each.django}", f"redis=={each.redis_py}")
            python = environment("-".join((place, *packages)), *packages)
            tests = CACHE / f"django-{each.django}/tests"
            calls.append(([str(python), "-W", "ignore", suite, str(tests)], each.server))
    with ThreadPoolExecutor() as pool:
        return "".join(pool.map(lambda call: run(call[0], WEBSTACK_TEST_REDIS=call[1]), calls))


def main(place: str = "all") -> int:
    try:
        for version in sorted({each.django for each in COMBINATIONS}):
            fetch(version)
        with ThreadPoolExecutor() as pool:
            parts = []
            if place in ("all", "here"):
                parts.append(pool.submit(here, "here"))
            if place in ("all", "lab"):
                parts.append(pool.submit(lab))
            if place == "inside-lab":
                parts.append(pool.submit(here, "lab"))
            for part in parts:
                print(part.result(), end="")
    except subprocess.CalledProcessError as error:
        print(error.stdout, end="")
        print(f"django_suite: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

"""Commands to the engine and on the hosts of a lab; one that fails fails the test, with what it said."""

from __future__ import annotations

import os
import subprocess

#: Of the hosts in the lab.
DEBIAN = int(os.environ.get("WEBSTACK_LAB_RELEASE", "13"))


def docker(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def attempt(host: str, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """For a command that may fail, and whose errors are looked at."""
    options = ["--interactive"] if text is not None else []
    full = ["docker", "exec", *options, host, *command]
    return subprocess.run(full, input=text, capture_output=True, text=True, check=False)


def on(host: str, *command: str, text: str | None = None) -> str:
    return docker("exec", *(["--interactive"] if text is not None else []), host, *command, text=text)

"""The script that replaces processes whose code changed: what it cannot see is no reason to replace none."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "roles/redis_cluster_client/files/restart-application.sh"


def test_without_ps_it_fails(tmp_path: pathlib.Path) -> None:
    for name in ("stat", "sort", "tail", "date", "wc", "tr", "grep", "sleep"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    command = ["/bin/sh", str(SCRIPT), str(SCRIPT)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no ps on this host" in done.stderr


def test_with_all_it_needs_it_ends_well(tmp_path: pathlib.Path) -> None:
    # Older than any process: those of labs that run on this machine are seen from here, and none may be replaced.
    code = tmp_path / "code"
    code.touch()
    os.utime(code, (0, 0))
    command = ["/bin/sh", str(SCRIPT), str(code)]
    assert subprocess.run(command, env={"PATH": os.environ["PATH"]}, check=False).returncode == 0

"""An earlier commit beside this checkout, for what measures one against the other."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def check_out(commit: str, where: pathlib.Path, sh: Callable[..., object]) -> None:
    """Have the tree of that commit in a directory, with this checkout's Python and collections. `sh` runs a command."""
    shutil.rmtree(where, ignore_errors=True)
    sh("git", "worktree", "prune")
    sh("git", "worktree", "add", "--force", "--detach", str(where), commit)
    (where / ".venv").symlink_to(ROOT / ".venv")
    there = where / ".cache/collections/ansible_collections"
    (there / "webstack").mkdir(parents=True)
    (there / "webstack/ha").symlink_to(where)
    shutil.copytree(ROOT / ".cache/collections/ansible_collections/community", there / "community")

#!/usr/bin/env python3
"""The hosts of a scenario as its playbook leaves them: `fresh.py SCENARIO`.

The first time they are made and kept as images, with what the controller knows of them (the authority); from then on
they boot from those, in seconds, until something changes that the scenario runs: a role, a plugin, the lab.
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import sys

from changed import Project

import lab

ROOT = lab.ROOT
TESTS = ("tests/", "docs/", "changelogs/")


def stamp(scenario: str) -> str:
    """What the hosts are made from."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    project = Project()
    made = hashlib.sha256(" ".join(lab.stamp_of(lab.image(kind)) for kind in ("lean", "warm")).encode())
    for name in sorted(set(listing.stdout.splitlines())):
        path = ROOT / name
        if path.is_file() and not name.startswith(TESTS) and scenario in project.touched_by(name):
            made.update(f"{name}\0".encode() + path.read_bytes())
    return made.hexdigest()[:16]


def controller(scenario: str) -> pathlib.Path | None:
    """Where molecule keeps what it knows of a scenario, the authority of its hosts among it."""
    return next((ROOT / ".cache/ansible/tmp").glob(f"molecule.*.{scenario}"), None)


def inventory_of(scenario: str) -> str:
    import yaml

    folder = ROOT / "molecule" / scenario
    settings = yaml.safe_load((folder / "molecule.yml").read_text())
    links = settings.get("provisioner", {}).get("inventory", {}).get("links", {})
    return str((folder / links.get("hosts", "inventory.yml")).resolve())


def molecule(word: str, scenario: str) -> None:
    subprocess.run(["molecule", word, "--scenario-name", scenario], check=True, cwd=ROOT)


def main(scenario: str) -> int:
    if not scenario or not (ROOT / f"molecule/{scenario}/molecule.yml").is_file():
        known = " ".join(sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")))
        print(f"fresh: S= names a scenario, one of: {known}", file=sys.stderr)
        return 2
    source = inventory_of(scenario)
    kept, wanted = ROOT / ".cache/fresh" / scenario, stamp(scenario)
    names = list(lab.inventory(source))
    if kept.is_dir() and all(lab.stamp_of(f"{lab.SNAPSHOT}:{name}") == wanted for name in names):
        lab.down(scenario)
        if folder := controller(scenario):
            shutil.rmtree(folder)
        (folder,) = kept.iterdir()
        shutil.copytree(folder, ROOT / ".cache/ansible/tmp" / folder.name)
        lab.up(source, scenario, kept=True)
        return 0
    lab.say(f"no snapshot of {scenario} as it is now: making its hosts")
    for word in ("destroy", "converge"):
        molecule(word, scenario)
    lab.save(scenario, wanted)
    folder = controller(scenario)
    if folder is None:
        raise lab.LabError(f"molecule left no folder for {scenario} in .cache/ansible/tmp")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept / folder.name)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:2] or [""]))
    except lab.LabError as error:
        sys.exit(f"fresh: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"fresh: {' '.join(error.cmd)} failed")

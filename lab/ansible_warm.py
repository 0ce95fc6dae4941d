"""Runs ansible-playbook in the lab for less: what it would work out anew in each of its processes is kept.

`ansible_warm.py PROGRAM ARGUMENT...` is what lab/bin/ansible-playbook calls. Ansible forks a process for each task and
host, which loads the task's plugins and throws them away again, and reads the syntax tree of every file that a module
imports once more in each run. Here the plugins are loaded before the fork, and the imports of a file are kept by its
content. What is run, sent and printed is the same; Debian 12 labs go without, so that the plain way stays tested.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import pathlib
import pickle
import runpy
import sys
import tempfile
from typing import Any

from ansible.executor import module_common
from ansible.executor.process.worker import WorkerProcess
from ansible.plugins import loader
from ansible.release import __version__

KNOWN = pathlib.Path(__file__).resolve().parent.parent / ".cache/ansible-imports" / __version__


class Source:
    """A file whose syntax tree nobody may need."""

    def __init__(self, name: str, text: str | bytes) -> None:
        self.name = name
        self.text = text

    def tree(self) -> Any:
        return compile_ast(self.name, self.text)


class Imports:
    """What ModuleDepFinder finds in a file."""

    def __init__(self, module_fqn: str, source: Source, is_pkg_init: bool = False) -> None:
        text = source.text if isinstance(source.text, bytes) else source.text.encode()
        said = hashlib.sha256(f"{module_fqn} {is_pkg_init} {sys.version} ".encode() + text)
        known = KNOWN / said.hexdigest()
        try:
            found = pickle.loads(known.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            # Its class calls itself by the name that stands for this one.
            module_common.ModuleDepFinder = find_imports
            finder = find_imports(module_fqn, source.tree(), is_pkg_init)
            module_common.ModuleDepFinder = Imports
            found = (finder.submodules, finder.optional_imports)
            with contextlib.suppress(OSError):
                KNOWN.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=KNOWN, delete=False) as file:
                    file.write(pickle.dumps(found))
                os.replace(file.name, known)
        self.submodules, self.optional_imports = found


def load_plugins(worker: Any) -> None:
    """Load what the worker will ask for; it says itself what it can't find."""
    task, variables = worker._task, worker._task_vars
    wanted = [
        (loader.action_loader, task.action),
        (loader.action_loader, "ansible.legacy.normal"),
        (loader.connection_loader, variables.get("ansible_connection", task.connection)),
        (loader.shell_loader, "sh"),
        (loader.become_loader, "sudo"),
    ]
    with contextlib.suppress(Exception):
        loader.module_loader.find_plugin(task.action)
        # Any of the collection's brings all of them.
        loader.filter_loader.get("webstack.ha.endpoints")
    for kind, name in wanted:
        with contextlib.suppress(Exception):
            kind.get(name, class_only=True)


def start(worker: Any) -> None:
    load_plugins(worker)
    # What is there now stays: no worker goes through it for garbage, or copies its pages to mark it.
    gc.freeze()
    start_worker(worker)


compile_ast = module_common._compile_module_ast
find_imports = module_common.ModuleDepFinder
start_worker = WorkerProcess.start


def main() -> None:
    gc.set_threshold(20_000, 50, 50)
    # Metadata in a module is an experiment of Ansible's that is off by default, and the one other reader of the tree.
    if not module_common.C.config.get_config_value("_MODULE_METADATA"):
        module_common._compile_module_ast = Source
        module_common.ModuleDepFinder = Imports
    WorkerProcess.start = start
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

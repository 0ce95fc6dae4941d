"""Runs ansible-playbook in the lab for less: what it would work out anew in each of its processes is kept.

`ansible_warm.py PROGRAM ARGUMENT...` is what lab/bin/ansible-playbook calls. Ansible forks a process for each task and
host, which loads the task's plugins, compiles its templates and throws all of it away again; and each run reads the
syntax tree of every file that a module imports. Here plugins are loaded before the fork, and what was compiled or read
is kept by its content, in .cache. What is run, sent and printed is the same; Debian 12 labs go without, so that the
plain way stays tested.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import marshal
import os
import pathlib
import runpy
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ansible._internal._templating import _jinja_bits
from ansible.executor import module_common
from ansible.executor.process.worker import WorkerProcess
from ansible.plugins import loader
from ansible.release import __version__
from jinja2.environment import Environment, TemplateExpression

ROOT = pathlib.Path(__file__).resolve().parent.parent
KNOWN = ROOT / ".cache/ansible-warm"
# Whether a filter wants the context stands in the code of a template. Short, since every key holds it.
FILTERS = hashlib.sha256(
    repr(sorted((path.name, path.stat().st_mtime_ns) for path in (ROOT / "plugins/filter").glob("*.py"))).encode()
).hexdigest()
SEEN: dict[str, Any] = {}


def kept(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `make` returned for a key once, in this process or another."""
    text = repr((sys.version, __version__, *key))
    if text in SEEN:
        return SEEN[text]
    name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
        SEEN[text] = marshal.loads((KNOWN / name).read_bytes())
        return SEEN[text]
    # Not while another error is handled: Ansible would tell that one, too.
    value = SEEN[text] = make()
    with contextlib.suppress(OSError):
        KNOWN.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=KNOWN, delete=False) as file:
            file.write(marshal.dumps(value))
        os.replace(file.name, KNOWN / name)
    return value


# --- imports of modules -----------------------------------------------------------------------------


class Source:
    """A file whose syntax tree nobody may need."""

    def __init__(self, name: str, text: str | bytes) -> None:
        self.name = name
        self.text = text


class Imports:
    """What ModuleDepFinder finds in a file."""

    def __init__(self, module_fqn: str, source: Source, is_pkg_init: bool = False) -> None:
        def find() -> tuple[Any, Any]:
            # Its class calls itself by the name that stands for this one.
            module_common.ModuleDepFinder = find_imports
            try:
                found = find_imports(module_fqn, compile_ast(source.name, source.text), is_pkg_init)
            finally:
                module_common.ModuleDepFinder = Imports
            return found.submodules, found.optional_imports

        text = source.text if isinstance(source.text, bytes) else source.text.encode()
        self.submodules, self.optional_imports = kept(("imports", module_fqn, is_pkg_init, bytes(text)), find)


# --- templates --------------------------------------------------------------------------------------


def syntax(environment: Any) -> tuple[Any, ...]:
    """All that the code of a template depends on but its text. Ansible has Jinja fold no constants."""
    context = _jinja_bits._TemplateCompileContext.current(optional=True)
    return (
        bool(context and context.escape_backslashes),
        environment.optimized,
        *(getattr(environment, name) for name in _jinja_bits._TEMPLATE_OVERRIDE_FIELD_NAMES),
        FILTERS,
    )


def compile_template(environment: Any, source: Any, name: Any = None, filename: Any = None, *more: Any) -> Any:
    def make() -> Any:
        return compile_source(environment, source, name, filename, *more)

    if not isinstance(source, str) or any(more) or environment._debuggable_template_source:
        return make()
    return kept(("template", str(source), name, filename, syntax(environment)), make)


def compile_expression(environment: Any, source: str, undefined_to_none: bool = True) -> Any:
    """As Jinja's, which hands a tree on that it parsed from the text."""

    def make() -> Any:
        codes = []
        real = environment.compile

        def watch(*arguments: Any) -> Any:
            codes.append(real(*arguments))
            return codes[-1]

        environment.compile = watch
        try:
            compile_text(environment, source, undefined_to_none)
        finally:
            del environment.compile
        return codes[-1]

    if environment._debuggable_template_source:
        return compile_text(environment, source, undefined_to_none)
    code = kept(("expression", str(source), syntax(environment)), make)
    template = environment.template_class.from_code(environment, code, environment.make_globals(None), None)
    return TemplateExpression(template, undefined_to_none)


# --- plugins ----------------------------------------------------------------------------------------


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
compile_source = Environment.compile
compile_text = _jinja_bits.AnsibleEnvironment.compile_expression
start_worker = WorkerProcess.start


def main() -> None:
    gc.set_threshold(20_000, 50, 50)
    # Metadata in a module is an experiment of Ansible's that is off by default, and the one other reader of the tree.
    if not module_common.C.config.get_config_value("_MODULE_METADATA"):
        module_common._compile_module_ast = Source
        module_common.ModuleDepFinder = Imports
    _jinja_bits.AnsibleEnvironment.compile = compile_template
    _jinja_bits.AnsibleEnvironment.compile_expression = compile_expression
    WorkerProcess.start = start
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

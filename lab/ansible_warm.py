"""Runs ansible-playbook in the lab for less: what it would work out anew in each of its processes is kept.

`ansible_warm.py PROGRAM ARGUMENT...` is what lab/bin/ansible-playbook calls. Ansible forks a process for each task and
host, which loads the task's plugins, compiles its templates and throws all of it away again; and each run compiles the
collection's Python, reads its own YAML and the roles', and the syntax tree of every file that a module imports. Here
plugins are loaded before the fork, and what was compiled or read is kept by its content, in .cache. A task that its
condition skips gets no process. What is run, sent and printed is the same; Debian 12 labs go without, so that the plain
way stays tested.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import marshal
import os
import pathlib
import pickle
import runpy
import sys
import tempfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

import yaml
from ansible._internal._datatag._tags import Origin
from ansible.module_utils._internal._datatag import AnsibleTagHelper
from ansible.release import __version__

ROOT = pathlib.Path(__file__).resolve().parent.parent
KNOWN = ROOT / ".cache/ansible-warm"
PACKAGES = os.path.dirname(os.path.dirname(yaml.__file__))
COLLECTIONS = ROOT / ".cache/collections/ansible_collections"
# Where files stay: one in a directory of a test is never read again.
STAYS = (f"{ROOT}/", f"{PACKAGES}/")
# Where YAML may be kept of: no file with a secret lies there.
DOCUMENTS = tuple(
    f"{folder}/"
    for folder in (
        PACKAGES,
        COLLECTIONS / "community",
        *(
            f"{root}/{part}"
            for root in (ROOT, COLLECTIONS / "webstack/ha")
            for part in ("meta", "playbooks", "plugins", "roles")
        ),
    )
)
SEEN: dict[str, Any] = {}


def kept(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `make` returned for a key once, in this process or another. Nobody may change it."""
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


# --- Python and YAML --------------------------------------------------------------------------------


def compile_file(loader: Any, data: bytes, path: str, **more: Any) -> Any:
    """Python asks for this where it finds no byte code, or may write none."""

    def make() -> Any:
        return compile_source_file(loader, data, path, **more)

    return kept(("file", path, data), make) if path.startswith(STAYS) else make()


def compile_collection(source: str | bytes, filename: str, **more: Any) -> Any:
    """Ansible's loader of collections knows no byte code."""

    def make() -> Any:
        return compile(source, filename, **more)

    return kept(("collection", filename, source), make) if filename.startswith(STAYS) else make()


def load_yaml(stream: Any, Loader: Any) -> Any:
    """What Ansible, its plugins and our roles have of it is kept. Others may hold secrets, and are read anew."""
    name = getattr(stream, "name", "")
    inside = isinstance(name, (str, bytes)) and os.fsdecode(name).startswith(f"{PACKAGES}/")
    text = stream.read() if inside else stream
    if isinstance(text, (str, bytes)):
        origin = Origin.get_tag(text)
        # Only plugins and Ansible itself have documents in no file.
        if inside or not origin or str(origin.path).startswith(DOCUMENTS):
            tags = sorted(map(repr, AnsibleTagHelper.tags(text)))
            key = ("yaml", Loader.__module__, Loader.__qualname__, tags, AnsibleTagHelper.untag(text))
            # Everybody gets objects of their own.
            return pickle.loads(kept(key, lambda: pickle.dumps(load_text(text, Loader))))
    return load_text(text, Loader)


def load_from_file(files: Any, file_name: str, cache: str = "all", unsafe: bool = False, **more: Any) -> Any:
    """What is kept is made anew for everybody: Ansible need not copy it once more, which costs five times as much."""
    if files.path_dwim(file_name).startswith(DOCUMENTS):
        cache, unsafe = "none", True
    return load_file(files, file_name, cache, unsafe, **more)


load_text = yaml.load
compile_source_file = SourceFileLoader.source_to_code
# Before Ansible's own are imported: they hold on to the function.
yaml.load = load_yaml
SourceFileLoader.source_to_code = compile_file  # type: ignore[assignment]

from ansible._internal._task import TaskContext  # noqa: E402
from ansible._internal._templating import _jinja_bits  # noqa: E402
from ansible.executor import module_common  # noqa: E402
from ansible.executor.process.worker import WorkerProcess  # noqa: E402
from ansible.executor.task_executor import TaskExecutor  # noqa: E402
from ansible.executor.task_result import _RawTaskResult  # noqa: E402
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.plugins import loader  # noqa: E402
from ansible.utils.collection_loader import _collection_finder  # noqa: E402
from jinja2.environment import Environment, TemplateExpression  # noqa: E402

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


# Whether a filter wants the context stands in the code of a template. Short, since every key holds it.
FILTERS = hashlib.sha256(
    repr(sorted((path.name, path.stat().st_mtime_ns) for path in (ROOT / "plugins/filter").glob("*.py"))).encode()
).hexdigest()


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


class Wanted(BaseException):
    """A task whose condition holds, or that has none."""


def wanted(**_: Any) -> None:
    raise Wanted


def skipped(worker: Any) -> bool:
    """Whether the task's condition skips it; then the result is on its way, as the worker would have sent it."""
    if not worker._task.when or worker._task.loop is not None or worker._task.loop_with:
        return False
    # As for an item of a loop: nothing that happens to a copy is seen elsewhere.
    task = worker._task.copy(exclude_parent=True, exclude_tasks=True)
    task._parent = worker._task._parent
    # What comes next for a task that is not skipped.
    task.post_validate = wanted
    executor = TaskExecutor(
        worker._host,
        task,
        dict(worker._task_vars),
        worker._play_context.copy(),
        worker._loader,
        worker._shared_loader_obj,
        worker._final_q,
        worker._variable_manager,
    )
    try:
        with TaskContext(task):
            found = executor.run()
    except Wanted:
        return False
    # The worker is the one to tell what went wrong.
    if found.get("failed") or not found.get("skipped") or "warnings" in found or "deprecations" in found:
        return False
    worker._final_q.send_task_result(_RawTaskResult(worker._host, worker._task, found, task.dump_attrs()))
    return True


def start(worker: Any) -> None:
    if skipped(worker):
        return
    load_plugins(worker)
    # What is there now stays: no worker goes through it for garbage, or copies its pages to mark it.
    gc.freeze()
    start_worker(worker)


compile_ast = module_common._compile_module_ast
find_imports = module_common.ModuleDepFinder
compile_source = Environment.compile
compile_text = _jinja_bits.AnsibleEnvironment.compile_expression
start_worker = WorkerProcess.start
load_file = DataLoader.load_from_file


def main() -> None:
    gc.set_threshold(20_000, 50, 50)
    # Metadata in a module is an experiment of Ansible's that is off by default, and the one other reader of the tree.
    if not module_common.C.config.get_config_value("_MODULE_METADATA"):
        module_common._compile_module_ast = Source
        module_common.ModuleDepFinder = Imports
    DataLoader.load_from_file = load_from_file
    _collection_finder.compile = compile_collection
    _jinja_bits.AnsibleEnvironment.compile = compile_template
    _jinja_bits.AnsibleEnvironment.compile_expression = compile_expression
    WorkerProcess.start = start
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

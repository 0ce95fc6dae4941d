"""Keeps what Python compiled out of zip archives: Ansible sends each module in one, and so it is compiled each time.

Every Python of a lab host loads this (lab_bytecode.pth). All hosts of all labs share the folder, an engine's volume.
"""

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType
from typing import Any

FOLDER = "/var/cache/lab-bytecode"
compile_source = zipimport._compile_source  # type: ignore[attr-defined]


def remembered(path: str, source: bytes) -> CodeType:
    """Known by the content, so that a module that was changed is another one."""
    known = f"{FOLDER}/{_imp.source_hash(sys.hexversion, source).hex()}-{len(source)}"
    try:
        with open(known, "rb") as file:
            code: CodeType = marshal.load(file)
            return code
    except (OSError, EOFError, ValueError, TypeError):
        code = compile_source(path, source)
    try:
        # Two hosts may have processes of one number: who comes second leaves it.
        own = f"{known}.{os.getpid()}"
        with open(own, "xb") as new:
            marshal.dump(code, new)
        os.rename(own, known)
    except OSError:
        pass  # not root, or a full disk: compiled each time, as anywhere else
    return code


find_code = zipimport._get_module_code  # type: ignore[attr-defined]
found: dict[tuple[str, str, str], Any] = {}


def found_once(importer: Any, name: str) -> Any:
    """An import asks twice for the code of a module, the first time only to learn its file's name."""
    key = (importer.archive, importer.prefix, name)
    if key not in found:
        found[key] = find_code(importer, name)
        return found[key]
    return found.pop(key)


zipimport._compile_source = remembered  # type: ignore[attr-defined]
zipimport._get_module_code = found_once  # type: ignore[attr-defined]

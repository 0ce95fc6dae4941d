"""`ansible-playbook` is the lab's here, which does and says what the plain one does, for less."""

from __future__ import annotations

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ["PATH"] = f"{ROOT / 'lab/bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"

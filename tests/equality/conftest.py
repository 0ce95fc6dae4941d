"""Make the ring importable by itself, as the application servers have it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT / "plugins" / "module_utils" / "webstack" / "pure"),
    str(ROOT / "roles" / "redis_cluster_client" / "files"),
    str(Path(__file__).parent),
]

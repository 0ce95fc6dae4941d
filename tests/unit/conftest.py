"""Make ansible_collections.webstack.ha and the cache client importable from the checkout; servers for the latter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".cache" / "collections"


def _link_checkout() -> None:
    link = COLLECTIONS / "ansible_collections" / "webstack" / "ha"
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(ROOT)
    except FileExistsError:
        if link.resolve() != ROOT:
            raise RuntimeError(f"{link} is not this checkout; remove it") from None


_link_checkout()
os.environ.setdefault("ANSIBLE_HOME", str(ROOT / ".cache" / "ansible"))
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
sys.path.insert(0, str(ROOT / ".cache" / "collections"))
sys.path.insert(0, str(ROOT / "roles" / "redis_cluster_client" / "files"))
sys.path.insert(0, str(ROOT / "tests" / "lab"))

import django  # noqa: E402
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder  # noqa: E402
from django.conf import settings  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402
from hypothesis import settings as examples  # noqa: E402
from redis_servers import Shards, running_shards  # noqa: E402

if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
    _AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()

# How long an example takes is none of its properties: on a busy machine any takes long now and then.
examples.register_profile("unit", examples(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
examples.load_profile("unit")

# Django takes its settings once in a process, and every test module runs in this one.
settings.configure(
    INSTALLED_APPS=["django.contrib.sessions", "webstack_cache"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    SECRET_KEY="of the tests, protects nothing",
    ALLOWED_HOSTS=["testserver"],
    USE_TZ=True,
)
django.setup()


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    """Three shards of one real Redis each, and the client's file about them."""
    with running_shards(tmp_path) as made:
        yield made

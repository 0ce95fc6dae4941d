"""Run ring_tests.py on three real shards in this Python: suite.py DIRECTORY_OF_DJANGO'S_TESTS.

Prints what ran and what was skipped and why; run.py calls it with each Django, redis-py and server.
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(django_tests: str) -> int:
    sys.path[:0] = [
        str(ROOT / "roles/redis_cluster_client/files"),
        str(ROOT / "tests/lab"),
        str(ROOT / "tests/django_suite"),
        django_tests,
    ]
    from redis_servers import program, running_shards

    with tempfile.TemporaryDirectory() as directory, running_shards(Path(directory)) as shards:
        os.environ["WEBSTACK_SUITE_FILE"] = str(shards.path)
        os.environ["DJANGO_SETTINGS_MODULE"] = "suite_settings"
        # Some of Django's tests write beside themselves.
        os.environ.setdefault("DJANGO_TEST_TEMP_DIR", directory)
        import django
        import redis
        from django.test.runner import DiscoverRunner

        django.setup()

        class Runner(DiscoverRunner):
            """Django's runner, which keeps the result."""

            result: unittest.TestResult

            def run_suite(self, suite: unittest.TestSuite, **kwargs: object) -> unittest.TestResult:
                self.result = super().run_suite(suite, **kwargs)
                return self.result

        runner = Runner(verbosity=0, interactive=False)
        failed = runner.run_tests(["ring_tests"])
        result = runner.result
    reasons = collections.Counter(reason for _, reason in result.skipped)
    for reason, count in sorted(reasons.items()):
        print(f"  skipped {count}: {reason}")
    server = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    print(
        f"Django {django.get_version()}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, "
        f"{' '.join(word for word in server.split()[:3] if word != 'server')}: {result.testsRun} tests, "
        f"{len(result.skipped)} of them skipped, {failed} failed"
    )
    # A run that found no tests proves nothing.
    return 1 if failed or result.testsRun < 200 else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

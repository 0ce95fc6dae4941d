"""Asks the application through the balancer in front of it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from containers import on

BALANCER = "10.77.3.31"
CLIENT = pathlib.Path(__file__).resolve().parents[1] / "lb_nginx/client.py"

Answer = dict[str, Any]


def send(*requests: Answer) -> list[Answer]:
    """Send raw requests, as a decent HTTP library would not."""
    job = {"requests": [{"address": BALANCER, **request} for request in requests]}
    said = on("django-client", "python3", "-", json.dumps(job), text=CLIENT.read_text())
    answers: list[Answer] = json.loads(said)
    return answers

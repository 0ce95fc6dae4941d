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
    job = {"number": 0, "requests": [{"address": BALANCER, **request} for request in requests], "workers": 1}
    said = on("django-client", "python3", "-c", CLIENT.read_text(), text=json.dumps(job) + "\n")
    answers: list[Answer] = json.loads(said)["answers"]
    return answers

"""Runs on the client host for as long as its stdin is open: sends raw requests and prints what came back, as JSON.

A line of input is a job, done beside the others: {"number", "requests": [{address, port, tls, sni, method, target,
host, headers, body, repeat, version, ciphers, timeout}], "workers"}. A line of output is {"number", "answers"}. Raw
sockets, because a decent HTTP library refuses to send what has to be tested.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def context(spec: dict[str, Any]) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    if "version" in spec:
        tls.set_ciphers(spec.get("ciphers", "ALL:@SECLEVEL=0"))
        tls.minimum_version = tls.maximum_version = getattr(ssl.TLSVersion, spec["version"])
    return tls


def send(spec: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    result: dict[str, Any] = {"status": 0, "headers": {}, "body": "", "error": ""}
    try:
        port = spec.get("port", 443)
        with socket.create_connection((spec["address"], port), spec.get("timeout", 10)) as plain:
            connection: socket.socket = plain
            if spec.get("tls", port == 443):
                sni = spec.get("sni", "www.example.test")
                tls = context(spec).wrap_socket(plain, server_hostname=sni or None)
                certificate = tls.getpeercert(binary_form=True) or b""
                result.update(
                    version=tls.version(),
                    certificate=ssl.DER_cert_to_PEM_cert(certificate),
                )
                connection = tls
            body = spec.get("body", "").encode() * spec.get("repeat", 1)
            lines = [
                f"{spec.get('method', 'GET')} {spec.get('target', '/')} HTTP/1.1",
                "Connection: close",
            ]
            host = spec.get("host", "www.example.test")
            lines += [f"Host: {host}"] if host else []
            lines += [f"{name}: {value}" for name, value in spec.get("headers", {}).items()]
            lines += [f"Content-Length: {len(body)}"] if body else []
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        head, _, text = answer.partition(b"\r\n\r\n")
        if head:
            first, *rest = head.decode().split("\r\n")
            result["status"] = int(first.split()[1])
            result["headers"] = {k.lower(): v for k, v in (line.split(": ", 1) for line in rest if ": " in line)}
            result["body"] = text.decode()
    except (OSError, ValueError) as problem:
        result["error"] = f"{type(problem).__name__}: {problem}"
    result["seconds"] = round(time.monotonic() - started, 3)
    return result


def work(line: str) -> None:
    job = json.loads(line)
    with ThreadPoolExecutor(job["workers"]) as pool:
        answers = list(pool.map(send, job["requests"]))
    with lock:
        print(json.dumps({"number": job["number"], "answers": answers}), flush=True)


if __name__ == "__main__":
    lock = threading.Lock()
    jobs: list[threading.Thread] = []
    for job_line in sys.stdin:
        jobs.append(threading.Thread(target=work, args=(job_line,)))
        jobs[-1].start()
    # An interpreter that ends lets no pool begin anything.
    for job_thread in jobs:
        job_thread.join()

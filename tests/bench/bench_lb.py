#!/usr/bin/env python3
"""What the balancer's configuration costs: requests a second and CPU a request against a bare hand-made nginx.

Both run on one lab host, in front of the same application server, and are measured in turn, round after round: single
rounds differ by a tenth and more, so fewer than twenty say little. The bare one ends TLS, passes on and, where asked,
caches; it does not log. Ours is what the role writes, with its log.
`--costs` measures ours without one feature after the other as well; `--instructions` counts what the processor executes
for a request instead, under valgrind, which hardly differs from run to run; `--servers` renders and loads longer and
longer lists of application servers instead. Builds its own lab and removes it; prints tables; nothing here passes or
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"
LAB = "bench_lb"
NAME = "www.example.test"
HOSTS = {
    "lb": {"benchlb-lb": "10.77.61.11"},
    "was": {"benchlb-was": "10.77.61.21"},
    "client": {"benchlb-client": "10.77.61.31"},
}
#: Where each configuration listens, and what is taken out of ours, as a script for sed -E.
VARIANTS = {
    "bare": (9000, ""),
    "ours": (443, ""),  # as the role writes it, so that no request names a port
    "without the access log": (9002, r"s/access_log .*/access_log off;/"),
    "without X-Request-ID": (9003, r"/X-Request-ID/d"),
    "without security headers": (9004, r"/X-Content-Type-Options/d"),
    "without the check of the method": (9005, r"/if \(.webstack_refused/,/}/d"),
    "without request headers": (9006, r"/proxy_set_header (X-|Forwarded|Proxy)/d"),
    "without the cache": (9007, r"/proxy_cache/d"),
    "without gzip": (9008, r"s/gzip on;/gzip off;/"),
}
BARE = f"""
user www-data;
worker_processes auto;
pid /tmp/bench/bare/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    proxy_cache_path /tmp/bench/bare/cache keys_zone=bare:10m;
    upstream app {{ server 10.77.61.21:8000; keepalive 64; }}
    server {{
        listen 9000 ssl;
        server_name {NAME};
        ssl_certificate /etc/nginx/webstack/site.crt;
        ssl_certificate_key /etc/nginx/webstack/site.key;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        location / {{ proxy_pass http://app; }}
        location /cached {{ proxy_pass http://app; proxy_cache bare; proxy_cache_key $host$request_uri; }}
    }}
}}
"""
APPLICATION = """
user www-data;
worker_processes 1;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000;
    server {
        listen 8000;
        default_type text/html;
        location / { return 200 "BODY"; }
        location /cached { add_header Cache-Control max-age=3600; return 200 "BODY"; }
    }
}
""".replace("BODY", "x" * 2000)


def on(host: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", host, "sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {host}: {command}\n{done.stdout}{done.stderr}")
    return done.stdout


def put(host: str, path: str, text: str) -> None:
    command = ["docker", "exec", "--interactive", host, "sh", "-c", f"mkdir -p $(dirname {path}); cat > {path}"]
    subprocess.run(command, input=text, text=True, check=True)


class Lab:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventory.yml"
        children = {
            group: {"hosts": {name: {"webstack_address": address} for name, address in hosts.items()}}
            for group, hosts in HOSTS.items()
        }
        variables = {
            "ansible_connection": "community.docker.docker",
            "webstack_network": "10.77.61.0/24",
            "webstack_server_names": [NAME],
            "webstack_pki_directory": str(folder / "pki"),
            "lab_image": "warm",
            "lab_names": [{"name": NAME, "address": "10.77.61.11"}],
        }
        self.inventory.write_text(json.dumps({"all": {"vars": variables, "children": children}}))

    def lab(self, *words: str) -> None:
        subprocess.run([sys.executable, str(ROOT / "tools/lab.py"), *words, f"--lab={LAB}"], cwd=ROOT, check=True)

    def __enter__(self) -> Lab:
        self.lab("up", f"--inventory={self.inventory}")
        return self

    def __exit__(self, *_: object) -> None:
        self.lab("down")

    def role(self, **variables: object) -> float:
        """Run the role; return its seconds."""
        play = [{"hosts": "lb", "gather_facts": False, "roles": ["webstack.ha.lb_nginx"]}]
        book = self.folder / "play.yml"
        book.write_text(json.dumps(play))
        started = time.monotonic()
        done = subprocess.run(
            [str(PLAYBOOK), "-i", str(self.inventory), str(book), "--extra-vars", json.dumps(variables)],
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"bench: the role failed\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return time.monotonic() - started


def start(variants: list[str]) -> None:
    """Start one nginx for each variant, all on the balancer's host; those that are not asked cost nothing."""
    put("benchlb-was", "/etc/nginx/nginx.conf", APPLICATION)
    on("benchlb-was", "systemctl restart nginx")
    on("benchlb-client", "apt-get -qq update && apt-get -qq install -y wrk >/dev/null")
    on("benchlb-lb", "systemctl stop webstack-lb nginx")
    for variant in variants:
        port, change = VARIANTS[variant]
        folder = f"/tmp/bench/{'bare' if variant == 'bare' else port}"
        if variant == "bare":
            put("benchlb-lb", f"{folder}/nginx.conf", BARE)
        else:
            moved = (
                rf"s#/etc/nginx/(nginx|conf|webstack)#{folder}/\1#; s#/var/(cache|log)/nginx/?#{folder}/\1/#; "
                rf"s#/run/nginx.pid#{folder}/nginx.pid#; s#:8089#:{port + 20000}#; s#(\]:|listen )443#\1{port}#; "
                rf"s#(\]:|listen )80( |;)#\1{port + 10000}\2#"
            )
            on(
                "benchlb-lb",
                f"mkdir -p {folder}/cache {folder}/log && cp -r /etc/nginx/. {folder}/ && "
                f"find {folder} -name '*.conf' -exec sed -E -i '{moved}; {change}' {{}} +",
            )
        on("benchlb-lb", f"mkdir -p {folder}/cache; nginx -c {folder}/nginx.conf")
    # For its first minute nginx does not know what its cache holds, and asks the disk about each key.
    on("benchlb-lb", "for i in $(seq 120); do pgrep -f 'cache [l]oader' >/dev/null || exit 0; sleep 1; done; exit 1")


def cpu_seconds(variant: str) -> float:
    """Return the CPU time of a variant's workers."""
    folder = f"/tmp/bench/{'bare' if variant == 'bare' else VARIANTS[variant][0]}"
    stats = on("benchlb-lb", f"for p in $(pgrep -P $(cat {folder}/nginx.pid)); do cat /proc/$p/stat; done")
    return sum(sum(map(int, line.rsplit(")")[-1].split()[11:13])) for line in stats.splitlines()) / 100


def measure(variant: str, path: str, seconds: int) -> tuple[float, float]:
    """Return requests a second and CPU microseconds a request."""
    before = cpu_seconds(variant)
    port = VARIANTS[variant][0]
    output = on("benchlb-client", f"wrk -t1 -c32 -d{seconds}s https://{NAME}{'' if port == 443 else f':{port}'}{path}")
    match = re.search(r"(\d+) requests in", output)
    if not match or "Non-2xx" in output:
        sys.exit(f"bench: {variant} {path}: {output}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert rate
    return float(rate[1]), 1e6 * (cpu_seconds(variant) - before) / int(match[1])


def compare(rounds: int, seconds: int, variants: list[str]) -> None:
    for path, what in (("/", "proxied"), ("/cached", "cached")):
        results: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
        for variant in variants:
            measure(variant, path, 1)
        for number in range(rounds):
            # Each round begins with another one, so that none is always the first.
            turn = number % len(variants)
            for variant in variants[turn:] + variants[:turn]:
                results[variant].append(measure(variant, path, seconds))
        print(f"\n{what}, {rounds} rounds of {seconds} s   requests/s   of bare   CPU us/request   of bare")
        for variant, rows in results.items():
            # Against the bare run of the same round, which met the same neighbours on these cores.
            pairs = [*zip(rows, results["bare"], strict=True)]
            rate, cpu = (statistics.median(row[i] for row in rows) for i in (0, 1))
            share, dear = (statistics.median(row[i] / bare[i] for row, bare in pairs) for i in (0, 1))
            print(f"{variant:36} {rate:10.0f} {share:9.2f} {cpu:16.1f} {dear:9.2f}")


#: Fetches as many times as it is told over one connection: URL, number.
FETCH = """
import http.client, ssl, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
line = http.client.HTTPSConnection(url.netloc, timeout=60, context=ssl._create_unverified_context())
for _ in range(int(sys.argv[2])):
    line.request("GET", url.path)
    answer = line.getresponse()
    assert answer.status == 200 and answer.read(), answer.status
"""


def executed(variant: str, path: str, requests: int) -> int:
    """Return the instructions of one nginx process from its start to its end, with some requests in between."""
    port = VARIANTS[variant][0]
    folder = f"/tmp/bench/{'bare' if variant == 'bare' else port}"
    grind = "valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null"
    single = "daemon off; master_process off;"
    on("benchlb-lb", f"{grind} nginx -c {folder}/nginx.conf -g '{single}' > {folder}/grind 2>&1 &")
    ask = f"for i in $(seq 240); do ss -Htln sport = :{port} | grep -q . && exit 0; sleep 0.5; done; exit 1"
    on("benchlb-lb", ask)
    url = f"https://{NAME}{'' if port == 443 else f':{port}'}{path}"
    put("benchlb-client", "/tmp/fetch.py", FETCH)
    on("benchlb-client", f"python3 /tmp/fetch.py {url} {requests}")
    end = f"pid=$(cat {folder}/nginx.pid); kill -QUIT $pid"
    on("benchlb-lb", f"{end}; for i in $(seq 240); do [ -e /proc/$pid ] || exit 0; sleep 0.5; done; exit 1")
    match = re.search(r"I\s+refs:\s+([\d,]+)", on("benchlb-lb", f"cat {folder}/grind"))
    if not match:
        sys.exit(f"bench: {variant}: valgrind counted nothing")
    return int(match[1].replace(",", ""))


def count(variants: list[str], more: int = 1000) -> None:
    on("benchlb-lb", "apt-get -qq update && apt-get -qq install -y valgrind >/dev/null")
    on("benchlb-lb", "for file in /tmp/bench/*/nginx.pid; do kill -QUIT $(cat $file); done; sleep 1")
    for path, what in (("/", "proxied"), ("/cached", "cached")):
        print(f"\n{what:36} instructions a request, beyond bare")
        counted: dict[str, float] = {}
        for variant in variants:
            # The difference is without start, handshake and end.
            counted[variant] = (executed(variant, path, 50 + more) - executed(variant, path, 50)) / more
            print(f"{variant:36} {counted[variant]:10.0f} {counted[variant] - counted['bare']:17.0f}", flush=True)


def grow(lab: Lab, counts: list[int]) -> None:
    print("\nservers   run of the role   refresh (render, test)   apply (reload, workers answer)")
    for count in counts:
        backends = [
            {"name": f"app{n}", "address": f"10.{80 + n // 65536}.{n // 256 % 256}.{n % 256}", "port": 8000}
            for n in range(1, count + 1)
        ]
        role = lab.role(lb_nginx_backends=backends, lb_nginx_probe_enabled=False)
        tool, timed = "/usr/local/sbin/webstack lb", []
        for command in ("refresh", "drain app1 --force", "undrain app1"):
            started = time.monotonic()
            on("benchlb-lb", f"{tool} {command}")
            timed.append(time.monotonic() - started)
        print(f"{count:7} {role:15.1f} s {timed[0]:20.2f} s {max(timed[1:]):25.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--costs", action="store_true", help="also ours without one feature after the other")
    parser.add_argument("--instructions", action="store_true", help="count instructions instead of time")
    parser.add_argument("--servers", nargs="*", type=int, help="numbers of servers to render; default 10 100 1000")
    options = parser.parse_args()
    # A time limit of the caller's must not leave the lab behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended from outside"))
    with tempfile.TemporaryDirectory() as folder, Lab(pathlib.Path(folder)) as lab:
        lab.role()
        if options.servers is not None:
            grow(lab, options.servers or [10, 100, 1000])
            return
        variants = [*VARIANTS] if options.costs or options.instructions else ["bare", "ours"]
        start(variants)
        if options.instructions:
            count(variants)
            return
        compare(options.rounds, options.seconds, variants)


if __name__ == "__main__":
    main()

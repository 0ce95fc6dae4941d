"""A broken change: what runs, and what the next start would read, stay as they were."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator

import pytest
import yaml
from balancer import BALANCER, NAME, Answer, facts, generation, get, lb, on, workers
from rerun import ROOT, assert_refused, play

#: Everything that nginx reads, and everything that the role writes beside it.
STATE = (
    "{ find /etc/nginx /var/lib/webstack/lb/nginx -type f -exec sha256sum {} + | sort; } | sha256sum;"
    " find /etc/nginx /var/lib/webstack/lb/nginx -name '.*' -type f"
)


@pytest.fixture
def unharmed() -> Iterator[None]:
    """The same files, the same workers; nginx accepts them, and serves after a start."""
    before, running, processes = on("nginx-lb1", STATE), generation(), workers()
    yield
    assert on("nginx-lb1", STATE) == before, "the files are as they were, and nothing was left beside them"
    assert (generation(), workers()) == (running, processes), "nothing was reloaded"
    # systemd counts the starts of ten seconds, and these tests are quick.
    on("nginx-lb1", "nginx -t -q && systemctl reset-failed nginx && systemctl restart nginx")
    assert facts(get("/started"))["server"]
    assert generation() == running


BROKEN: dict[str, tuple[Answer, str]] = {
    "site snippet": ({"lb_nginx_extra_site_config": "no_such_directive on;", "lb_nginx_hsts_seconds": 77}, "no_such_"),
    "http snippet": ({"lb_nginx_extra_http_config": "map $x {"}, "invalid number of arguments in"),
    "unresolvable name": (
        {"lb_nginx_extra_site_config": "location /x { proxy_pass http://nowhere.invalid; }"},
        "host not found in upstream",
    ),
    "missing certificate": (
        {"lb_nginx_extra_site_config": "ssl_certificate /etc/nginx/absent.crt;"},
        "absent.crt",
    ),
    "address of another host": ({"lb_nginx_health_address": "192.0.2.250"}, "bind() to 192.0.2.250"),
}


#: What a test sees of the balancer before and after a change: its files, what it runs, and which workers.
GENERATION = "curl -fsS http://127.0.0.1:8089/generation"
LOOK = f"{GENERATION}; {STATE}; pgrep -f 'nginx: worker process$' | sort"
SERVES = (
    f"nginx -t -q && systemctl restart nginx; {GENERATION};"
    f" curl -fsSk --resolve {NAME}:443:{BALANCER} https://{NAME}/started"
)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Give the role each broken input in turn, in one play; what it said, and what a look saw around it."""

    def see(what: str, command: str) -> list[Answer]:
        shell = {"ansible.builtin.shell": {"cmd": f"set -e; {command}", "executable": "/bin/bash"}, "register": "seen"}
        return [shell, {"ansible.builtin.debug": {"msg": f"{what}: {{{{ seen.stdout | to_json }}}}"}}]

    tasks: list[Answer] = []
    for broken, (variables, _message) in BROKEN.items():
        role = {"ansible.builtin.include_role": {"name": "webstack.ha.lb_nginx"}, "vars": variables}
        said = {"ansible.builtin.debug": {"msg": f"{broken} said: {{{{ ansible_failed_result | to_json }}}}"}}
        tasks += see(f"{broken} before", LOOK)
        tasks.append({"block": [role], "rescue": [said]})
        tasks += see(f"{broken} after", LOOK) + see(f"{broken} started", SERVES)
    site = yaml.safe_load((ROOT / "molecule/lb_nginx/converge.yml").read_text())[0]["tasks"][0]["vars"]
    book = tmp_path_factory.mktemp("refused") / "book.yml"
    book.write_text(json.dumps([{"hosts": "nginx-lb1", "gather_facts": False, "vars": site, "tasks": tasks}]))
    done = play("lb_nginx", book=book, result_format="json")
    assert f"rescued={len(BROKEN)}" in done.stdout, done.stdout
    found: dict[str, Answer] = {broken: {} for broken in BROKEN}
    for line in done.stdout.splitlines():
        for broken, what in itertools.product(BROKEN, ("said", "before", "after", "started")):
            mark = f"{broken} {what}: "
            if f'"msg": "{mark}' in line:
                text = json.loads("{" + line.strip().rstrip(",") + "}")["msg"].removeprefix(mark)
                found[broken][what] = json.loads(text)
    return found


@pytest.mark.parametrize("broken", BROKEN)
def test_a_refused_configuration_leaves_the_good_one(refused: dict[str, Answer], broken: str) -> None:
    """The same files, the same workers; nginx accepts them, and serves after a start."""
    _variables, message = BROKEN[broken]
    seen = refused[broken]
    assert message in json.dumps(seen["said"]), seen
    assert seen["after"] == seen["before"]
    running, page = seen["started"].splitlines()
    assert running == seen["before"].splitlines()[0]
    assert json.loads(page)["server"]


@pytest.fixture(params=["/etc/nginx", "/var/lib/webstack/lb"])
def full_disk(request: pytest.FixtureRequest) -> Iterator[str]:
    """A small file system with a copy of a folder, mounted over it, without room for anything more."""
    folder: str = request.param
    on(
        "nginx-lb1",
        f"systemctl stop webstack-lb; cp -a {folder} /run/copy && mount -t tmpfs -o size=2m,mode=755 tmpfs {folder}"
        f" && cp -a /run/copy/. {folder}/ && rm -r /run/copy"
        f" && {{ dd if=/dev/zero of={folder}/fill bs=1k 2>/dev/null || true; }}"
        f" && ! echo more > {folder}/more; rm -f {folder}/more",
    )
    yield folder
    on("nginx-lb1", f"umount {folder}; systemctl restart webstack-lb")


def test_a_full_disk_leaves_the_good_configuration(full_disk: str, unharmed: None) -> None:
    backends = [{"name": f"app{n}", "address": f"192.0.2.{n}", "port": 80} for n in range(1, 200)]
    snippet = "# " + "x" * 9000
    done = play("lb_nginx", "--limit", "nginx-lb1", lb_nginx_extra_site_config=snippet, lb_nginx_backends=backends)
    assert done.returncode != 0
    assert "No space left on device" in done.stdout, done.stdout
    if full_disk == "/var/lib/webstack/lb":
        assert "No space left on device" in on("nginx-lb1", "webstack lb drain nginx-was1 || true")


@pytest.mark.usefixtures("unharmed")
def test_the_tool_does_not_reload_what_somebody_else_broke() -> None:
    """A drain while a file of somebody else is broken: refused, not kept, and it still serves."""
    on("nginx-lb1", "echo 'broken' > /etc/nginx/conf.d/other.conf")
    try:
        said = on("nginx-lb1", "webstack lb drain nginx-was1 || true")
        assert "other.conf" in said
        assert not lb("status", "--json")["sites"][0]["servers"][0]["drained"]
        assert get("/still")["status"] == 200
    finally:
        on("nginx-lb1", "rm /etc/nginx/conf.d/other.conf")


APP = {"name": "app1", "address": "192.0.2.1", "port": 8000}
SHOP = {"name": "shop", "server_names": ["shop.example.test"]}


def test_bad_input_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    missing = {"lb_nginx_tls_mode": "files", "lb_nginx_tls_certificate_file": "/x.crt", "lb_nginx_tls_key_file": "/x"}
    assert_refused(
        "lb_nginx",
        "nginx-lb1",
        [
            ({"lb_nginx_backends": []}, "nginx-lb1: lb_nginx_backends is empty"),
            ({"lb_nginx_methods": []}, "lb_nginx_methods is empty"),
            ({"lb_nginx_server_names": []}, "lb_nginx_server_names is empty"),
            (missing, "lb_nginx_tls_certificate_file names no file on the controller: '/x.crt'"),
            ({"lb_nginx_backends": [{**APP, "address": "app1"}]}, "the address of app1 is no IPv4 or IPv6 address"),
            ({"lb_nginx_backends": [APP, APP]}, "lb_nginx_backends: two servers have the name app1"),
            ({"lb_nginx_backends": [{"name": "a", "port": 1}]}, "address found in lb_nginx_backends"),
            ({"lb_nginx_tls_mode": "magic"}, "value of lb_nginx_tls_mode must be one of"),
            ({"lb_nginx_probe_fall": 0}, "lb_nginx_probe_fall and lb_nginx_probe_rise must be at least 1"),
            (
                {"lb_nginx_cache_answer_size_max": "32 MB"},
                "lb_nginx_cache_answer_size_max is no size in nginx",
            ),
            ({"lb_nginx_cache_key": "$request_uri"}, "lb_nginx_cache_key lacks $webstack_host"),
            ({"lb_nginx_sites": [SHOP, SHOP]}, "lb_nginx_sites: two sites have the name shop"),
            (
                {"lb_nginx_sites": [SHOP, {**SHOP, "name": "blog"}]},
                "lb_nginx_sites[blog].server_names: shop.example.test belongs to shop, too",
            ),
            ({"lb_nginx_sites": [{**SHOP, "bakends": []}]}, "bakends"),
            ({"lb_nginx_locations": [{"path": "ws"}]}, "lb_nginx_locations: 'ws' is no path"),
        ],
        tmp_path,
    )

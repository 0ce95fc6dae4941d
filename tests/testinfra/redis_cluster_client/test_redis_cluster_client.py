"""The cache as an application has it: where keys land, and what a shard costs that is killed, frozen or moved."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from containers import attempt

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
SCENARIO = ROOT / "molecule/redis_cluster_client"
VARIABLES: dict[str, Any] = yaml.safe_load((SCENARIO / "inventory.yml").read_text(encoding="utf-8"))["all"]["vars"]
SHARDS: list[dict[str, Any]] = VARIABLES["redis_cluster_client_shards"]
PASSWORD: str = VARIABLES["redis_cluster_client_password"]
REDIS = "10.77.5.21"
PORTS = {shard["name"]: shard["nodes"][0]["port"] for shard in SHARDS}
UNITS = [f"ringc-redis@{port}" for port in (6379, 6380, 6381, 6390)]
SENTINELS = [f"ringc-sentinel@{port}" for port in (26379, 26380, 26381)]
# On a crowded machine the container may not run at all for a while: this much is not the cache's doing.
PATIENCE = 0.1
# Molecule asks for colours, which come before everything else.
PLAIN = {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


def docker(host: str, *command: str, text: str = "", check: bool = True, **environment: str) -> Any:
    settings = [f"{name}={value}" for name, value in environment.items()]
    done = attempt(host, *(["env", *settings] if settings else []), *command, text=text)
    if check:
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
    return done


def systemctl(*arguments: str) -> None:
    docker("ringc-redis1", "systemctl", *arguments)


def application(code: str, *arguments: str, **environment: str) -> Any:
    """Run Python code in the application's environment; return what it printed last, as JSON."""
    start = "import json, sys, django; django.setup(); from django.core.cache import cache\n"
    done = docker(
        "ringc-was1",
        "/opt/venv/bin/python",
        "-",
        *arguments,
        text=start + code,
        PYTHONPATH="/srv/ringc",
        DJANGO_SETTINGS_MODULE="settings",
        **environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


class Watch:
    """The steady application, running while something is done to the servers."""

    def __init__(self, seconds: float) -> None:
        command = ["docker", "exec", "--interactive", "--env=PYTHONPATH=/srv/ringc"]
        command += ["--env=DJANGO_SETTINGS_MODULE=settings", "ringc-was1", "/opt/venv/bin/python", "-"]
        self._process = subprocess.Popen(
            [*command, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write((HERE / "watch.py").read_text(encoding="utf-8"))
        self._process.stdin.close()
        assert self._process.stdout.readline() == "ready\n"

    def result(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        result: dict[str, Any] = json.loads(self._process.stdout.read())
        assert self._process.wait() == 0
        assert result["exceptions"] == []
        return result


def after(samples: list[list[float]], moment: float) -> list[list[float]]:
    return [sample for sample in samples if sample[0] >= moment]


def missed(samples: list[list[float]]) -> list[list[float]]:
    """Return what was not found: since the first sample, and how long the call took, in milliseconds."""
    return [[round(1000 * (at - samples[0][0])), round(1000 * took)] for at, took, hit in samples if not hit]


def misses(samples: list[list[float]]) -> float:
    """Return the seconds between the first miss and the hit after the last one."""
    places = [position for position, sample in enumerate(samples) if not sample[2]]
    if not places:
        return 0.0
    assert places[-1] + 1 < len(samples), "still a miss at the end"
    return samples[places[-1] + 1][0] - samples[places[0]][0]


def quick(samples: list[list[float]]) -> None:
    """Nearly every call is a matter of milliseconds; a few may suffer from a crowd on the machine."""
    times = sorted(sample[1] for sample in samples)
    assert times[len(times) // 2] < 0.005
    assert times[int(len(times) * 0.95)] < 0.02


def redis(port: int, *command: str, check: bool = True) -> str:
    line = ["redis-cli", "-h", REDIS, "-p", str(port), "--tls", "--cacert", "/var/lib/ringc/ca.pem"]
    done = docker("ringc-redis1", *line, "--user", "servers", *command, check=check, REDISCLI_AUTH=PASSWORD)
    return str(done.stdout)


def masters() -> dict[str, int]:
    return {name: int(redis(26379, "sentinel", "get-master-addr-by-name", name).split()[1]) for name in PORTS}


@pytest.fixture
def servers_run() -> Iterator[None]:
    """Afterwards all servers run as at first: fail-overs are undone by starting Redis and sentinels afresh."""
    yield
    done = docker("ringc-redis1", "systemctl", "is-active", *UNITS, check=False)
    if done.returncode or masters() != PORTS:
        systemctl("stop", *SENTINELS)
        docker("ringc-redis1", "systemctl", "kill", "--signal=CONT", *UNITS, check=False)
        systemctl("stop", *UNITS)
        # Both keep what they learned in their own configuration; prepare writes it again.
        play("prepare.yml", "--limit=servers")
        systemctl("start", *UNITS, *SENTINELS)
    until_all_answer()
    until_the_sentinels_are_sure()


def until_all_answer() -> None:
    """Wait: Sentinel needs a second or so to believe that a server is back."""
    code = """
import time
end = time.monotonic() + 20
while time.monotonic() < end:
    cache.set_many(dict.fromkeys("abcdefghijklmnop", 1))
    if len(cache.get_many("abcdefghijklmnop")) == 16:
        break
    time.sleep(0.1)
else:
    sys.exit("some shards do not come back")
print(1)
"""
    application(code)


def until_the_sentinels_are_sure() -> None:
    """Wait: about a second after a server's return a sentinel may take it for down once more, for 0.1 s.

    Applications look again then, which is some milliseconds of misses, and no matter of the fault that comes next.
    """
    ports = [unit.partition("@")[2] for unit in SENTINELS]
    end = time.monotonic() + 20
    sure = 0
    while sure < 20:
        assert time.monotonic() < end, "some sentinel takes a server for down"
        replies = [redis(int(port), "sentinel", "masters").splitlines() for port in ports]
        flags = [words[at + 1] for words in replies for at, word in enumerate(words) if word == "flags"]
        sure = sure + 1 if flags == ["master"] * len(PORTS) * len(ports) else 0
        time.sleep(0.1)


def play(playbook: str | pathlib.Path, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    command = ["ansible-playbook", "-i", str(SCENARIO / "inventory.yml"), str(SCENARIO / playbook), *arguments]
    if variables:
        command += ["--extra-vars", json.dumps(variables)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | PLAIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def controller(expression: str) -> Any:
    """Return the value of an expression over the inventory's variables."""
    command = ["ansible", "-i", str(SCENARIO / "inventory.yml"), "-c", "local", "ringc-was1", "-m"]
    command += ["ansible.builtin.debug", "-a", f"msg={{{{ {expression} | to_json }}}}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | PLAIN | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads(done.stdout.partition("=>")[2])["msg"]
    return json.loads(value) if isinstance(value, str) else value


# --- the healthy cache ---------------------------------------------------------------------------------


def test_keys_land_where_the_filter_says() -> None:
    code = """
names = [f"land:{n}" for n in range(300)]
cache.set_many(dict.fromkeys(names, 1))
print(json.dumps({cache.make_key(name): [cache.locate(name)] for name in names}))
"""
    located = application(code)
    found: dict[str, list[str]] = {}
    for shard, port in PORTS.items():
        for key in redis(port, "--scan", "--pattern", ":1:land:*").split():
            found.setdefault(key, []).append(shard)
    keys = sorted(located)
    said = controller(f"redis_cluster_client_shards | webstack.ha.ring_locate({keys!r})")
    assert len(found) == 300
    assert found == located == {key: [shard] for key, shard in zip(keys, said, strict=True)}


def test_only_the_application_reads_the_password() -> None:
    status = docker("ringc-was1", "stat", "-c", "%a %U %G", "/etc/webstack/cache.json")
    assert status.stdout.split() == ["640", "root", "www-data"]
    as_user = ["setpriv", "--clear-groups", "--regid"]
    assert docker("ringc-was1", *as_user, "www-data", "--reuid", "www-data", "cat", "/etc/webstack/cache.json")
    other = docker(
        "ringc-was1", *as_user, "nogroup", "--reuid", "nobody", "cat", "/etc/webstack/cache.json", check=False
    )
    assert other.returncode != 0


def test_the_package_can_be_installed_by_pip() -> None:
    docker(
        "ringc-was1",
        "sh",
        "-c",
        "rm -rf /tmp/wheel && /opt/venv/bin/pip -q wheel --no-deps -w /tmp/wheel /opt/webstack/python"
        " && /opt/venv/bin/python -m zipfile -l /tmp/wheel/*.whl | grep -c webstack_cache/ring.py",
    )
    assert docker("ringc-was1", "ls", "/opt/webstack/python").stdout.split() == ["pyproject.toml", "webstack_cache"]


# --- shards that fail ----------------------------------------------------------------------------------


@pytest.mark.quiet
@pytest.mark.usefixtures("servers_run")
def test_a_killed_shard_costs_misses_for_its_keys_only() -> None:
    watch = Watch(5)
    moment = time.time()
    systemctl("kill", "--signal=KILL", "ringc-redis@6379")
    result = watch.result()
    samples = result["samples"]
    for name in ("s2", "s3"):
        assert missed(samples[name]) == []
        quick(samples[name])
    # The key itself is gone with the server, but no call waits for it.
    dead = [sample for sample in after(samples["s1"], moment) if not sample[2]]
    assert len(dead) > 50
    quick(dead)
    assert sum(sample[1] > 0.005 + PATIENCE for sample in dead[2:]) <= 1
    healthy = result["keys"]["s2"] + result["keys"]["s3"]
    assert {sample[2] for sample in samples["many"]} <= {60, healthy}
    assert samples["many"][-1][2] == healthy
    quick(samples["many"])
    # And back.
    systemctl("start", "ringc-redis@6379")
    until_all_answer()


@pytest.mark.quiet
@pytest.mark.usefixtures("servers_run")
def test_a_frozen_shard_stalls_a_process_for_a_second_at_most() -> None:
    watch = Watch(5)
    moment = time.time()
    systemctl("kill", "--signal=STOP", "ringc-redis@6381")
    time.sleep(2.5)
    thawed = time.time()
    systemctl("kill", "--signal=CONT", "ringc-redis@6381")
    samples = watch.result()["samples"]
    for name in ("s1", "s2"):
        assert missed(samples[name]) == []
        quick(samples[name])
    frozen = [sample for sample in after(samples["s3"], moment) if sample[0] < thawed]
    stalls = [sample[1] for sample in frozen + after(samples["many"], moment) if sample[1] > 0.15]
    assert sum(stalls) < 1.0 + PATIENCE
    # The next look, what the sentinels need to believe that it is back, and the quarantine.
    assert misses(samples["s3"]) < thawed - moment + 1.5
    assert samples["s3"][-1][2] == 1


@pytest.mark.quiet
@pytest.mark.usefixtures("servers_run")
def test_a_replica_takes_over_and_keeps_the_keys() -> None:
    watch = Watch(7)
    systemctl("kill", "--signal=KILL", "ringc-redis@6380")
    samples = watch.result()["samples"]
    for name in ("s1", "s3"):
        assert missed(samples[name]) == []
        quick(samples[name])
    assert 0 < misses(samples["s2"]) < 3.5 + PATIENCE
    assert masters()["s2"] == 6390
    assert samples["many"][-1][2] == 60


@pytest.mark.usefixtures("servers_run")
def test_a_session_survives_its_shard() -> None:
    key = application("""
from django.contrib.sessions.backends.cached_db import SessionStore, KEY_PREFIX
while True:
    session = SessionStore()
    session["user"] = "alice"
    session.save()
    if cache.locate(KEY_PREFIX + session.session_key) == "s1":
        print(json.dumps(session.session_key))
        break
""")
    read = """
from django.contrib.sessions.backends.cached_db import SessionStore
session = SessionStore(sys.argv[1])
count = session.get("count", 0) + 1
session["count"] = count
session.save()
print(json.dumps([session.get("user"), count]))
"""
    assert application(read, key) == ["alice", 1]
    systemctl("kill", "--signal=KILL", "ringc-redis@6379")
    assert application(read, key) == ["alice", 2]
    assert application(read, key) == ["alice", 3]
    systemctl("start", "ringc-redis@6379")
    assert application(read, key) == ["alice", 4]


def load(seconds: float) -> subprocess.Popen[str]:
    """Start processes that know what every read must return; see tests/lab/cache_load.py."""
    command = ["docker", "exec", "--interactive", "--env=PYTHONPATH=/opt/webstack/python", "ringc-was1"]
    process = subprocess.Popen(
        [*command, "/opt/venv/bin/python", "-", "--seconds", str(seconds), "--processes", "4"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write((ROOT / "tests/lab/cache_load.py").read_text(encoding="utf-8"))
    process.stdin.close()
    assert process.stdout.readline() == "ready\n"
    return process


def seen_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    result: dict[str, Any] = json.loads(process.stdout.read())
    assert process.wait() == 0
    assert result["errors"] == 0, result["said"]
    assert result["stale"] == 0, result["stale_reads"]
    return result


@pytest.mark.quiet
@pytest.mark.usefixtures("servers_run")
def test_no_old_value_returns_with_a_master_that_was_paused() -> None:
    """Its replica took over meanwhile; one of the four processes slept most of the time."""
    running = load(8)
    time.sleep(1)
    systemctl("kill", "--signal=STOP", "ringc-redis@6380")
    time.sleep(3)
    systemctl("kill", "--signal=CONT", "ringc-redis@6380")
    result = seen_by(running)
    print(f"figure: master paused for 3 s: {result['shards']['s2']['misses']} s of misses,", end=" ")
    print(f"workers stalled for {result['stalled']} s at most, {result['stale']} of {result['calls']} calls stale")
    assert masters()["s2"] == 6390
    # The bars are measured in cache_faults; here, one host has all of the servers and the sentinels.
    assert result["shards"]["s2"]["misses"] < 4.5 + PATIENCE
    assert result["longest_call"] < 1.0


# --- wrong input ---------------------------------------------------------------------------------------


def manage_check(content: str | None, app: str = "yes") -> Any:
    environment = {"RINGC_APP": app}
    if content is not None:
        docker("ringc-was1", "sh", "-c", "cat > /tmp/ring.json", text=content)
        environment["RINGC_FILE"] = "/tmp/ring.json"
    command = ["/opt/venv/bin/python", "/srv/ringc/manage.py", "check"]
    return docker("ringc-was1", *command, check=False, **environment)


@pytest.mark.parametrize("app", ["yes", "no"])
def test_manage_check_refuses_a_wrong_ring(app: str) -> None:
    good = json.loads(docker("ringc-was1", "cat", "/etc/webstack/cache.json").stdout)
    assert manage_check(None, app).returncode == 0
    wrong = manage_check(json.dumps({**good, "fingerprint": "0123456789abcdef"}), app)
    assert wrong.returncode == 1
    assert "the fingerprint is 0123456789abcdef, but these shards make the ring" in wrong.stderr
    assert ("webstack_cache.E002" in wrong.stderr) == (app == "yes")
    heavier = {name: weight + 1 for name, weight in good["weights"].items()}
    assert manage_check(json.dumps({**good, "weights": heavier}), app).returncode == 1


BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"shards": []}, "redis_cluster_client_shards .*at least one shard"),
    ({"shards": [SHARDS[0], SHARDS[0]]}, "redis_cluster_client_shards .*'s1' is named twice"),
    ({"shards": [{**SHARDS[0], "weight": 0}]}, "redis_cluster_client_shards .*weight of shard 's1' must be"),
    ({"shards": [{**SHARDS[0], "nodes": []}]}, "redis_cluster_client_shards .*shard 's1' has no node"),
    ({"shards": [{"name": "s1"}]}, "nodes found in redis_cluster_client_shards"),
    ({"points": 6}, "redis_cluster_client_points 6: points must be a positive multiple of 4"),
    ({"points": "many"}, "redis_cluster_client_points"),
    ({"points": 320}, "run webstack.ha.resize_cache"),
    ({"password": ""}, "redis_cluster_client_password is empty"),
]


@pytest.fixture(scope="module")
def refusals() -> str:
    bad_inputs = [{**variables, "number": number} for number, (variables, _) in enumerate(BAD_INPUTS)]
    return play(HERE / "refusals.yml", bad_inputs=bad_inputs, good_shards=SHARDS).stdout


@pytest.mark.parametrize("number", range(len(BAD_INPUTS)))
def test_bad_input_is_refused_before_any_change(refusals: str, number: int) -> None:
    output = " ".join(refusals.replace("''", "'").split())
    said = re.search(rf"REFUSED{number}<<(.*?)>>", output)
    assert said, output
    assert re.search(BAD_INPUTS[number][1], said[1]), said[1]
    assert "changed=0" in output


# --- changes -------------------------------------------------------------------------------------------


def processes() -> set[str]:
    return set(docker("ringc-was1", "sh", "-c", "pgrep -f '^.wsgi:' || true").stdout.split())


@pytest.fixture
def stand_ins() -> Iterator[None]:
    """Two processes that look as mod_wsgi's do."""
    units = ["ringc-wsgi@1", "ringc-wsgi@2"]
    docker("ringc-was1", "systemctl", "start", *units)
    time.sleep(2)
    yield
    docker("ringc-was1", "systemctl", "stop", *units)


@pytest.mark.usefixtures("stand_ins")
def test_another_ring_reaches_running_processes_and_no_old_value_with_it() -> None:
    before = processes()
    other = [{**shard, "weight": 3} if shard["name"] == "s3" else shard for shard in SHARDS]
    running = load(20)
    try:
        play("converge.yml", redis_cluster_client_next_shards=other)
        time.sleep(2)
        play("converge.yml", redis_cluster_client_shards=other)
        result = seen_by(running)
        print(f"figure: ring changed under load: {result['errors']} errors, {result['stale']} stale")
        assert application("print(cache._cache.cluster.ring.weights['s3'])") == 3
        # Nobody was restarted for that.
        assert processes() == before
        assert result["overtaken"] == 0
    finally:
        docker("ringc-was1", "rm", "/etc/webstack/cache.json")
        play("converge.yml")


@pytest.mark.usefixtures("stand_ins")
def test_other_code_restarts_the_processes() -> None:
    """By SIGUSR1, one at a time; processes that are young enough are left alone."""
    before = processes()
    assert len(before) == 2
    docker("ringc-was1", "sh", "-c", "echo '# older' >> /opt/webstack/python/webstack_cache/apps.py")
    assert "changed=2" in play("converge.yml").stdout
    after_it = processes()
    assert len(after_it) == 2
    assert not before & after_it


def test_the_account_had_every_right_that_it_needed() -> None:
    for port in (*PORTS.values(), 26379, 26380, 26381):
        assert redis(port, "acl", "log").strip() == ""

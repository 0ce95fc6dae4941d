"""One directory on several hosts: new files travel both ways, a cut network loses nothing, an engine can be changed."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import testinfra
from containers import docker
from documents import document
from rerun import assert_refused, play, refusals

SCENARIO = pathlib.Path(__file__).resolve().parents[3] / "molecule/shared_media"
MEDIA = "/srv/site/media"
#: By engine and by what is done.
Begun = dict[tuple[str, str], Future[None]]
PAIRS = {"syncthing": ("media-mesh1", "media-mesh2"), "rsync": ("media-pull1", "media-pull2")}


def on(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{name}")


def upload(name: str, path: str, size: int = 100_000) -> str:
    """Write as the application does; return the checksum."""
    script = f"mkdir -p $(dirname {MEDIA}/{path}) && head -c {size} /dev/urandom > {MEDIA}/{path}"
    on(name).check_output(f"runuser -u www-data -- sh -c '{script}'")
    return digest(name, path)


def digest(name: str, path: str) -> str:
    result = on(name).run(f"sha256sum {MEDIA}/{path}")
    return result.stdout.split()[0] if result.rc == 0 else ""


def seconds_until(condition: Callable[[], bool], limit: float, what: str) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            names = [name for pair in PAIRS.values() for name in pair]
            journals = [on(name).run("journalctl --no-pager -n 40 -u 'webstack-media-*'").stdout for name in names]
            pytest.fail(f"not within {limit} s: {what}\n" + "\n".join(journals))
        time.sleep(0.2)
    return time.monotonic() - start


def linked(pair: tuple[str, str]) -> bool:
    """Whether both Syncthings see each other; a pair that pulls has no link."""
    for name, peer in (pair, pair[::-1]):
        result = on(name).run("webstack media status webstack-media-syncthing.service")
        if result.rc != 0 or not document(result.stdout)["hosts"].get(peer):
            return False
    return True


def a_new_file_is_on_the_other_host(engine: str) -> None:
    pair = PAIRS[engine]
    if engine == "syncthing":
        seconds_until(lambda: linked(pair), 20, "the mesh is linked")
    for source, target in (pair, pair[::-1]):
        times = []
        for number in range(3):
            path = f"album-{time.time_ns()}/{number}.bin"
            wanted = upload(source, path, size=10 ** (number + 4))
            times.append(seconds_until(lambda p=path, w=wanted, t=target: digest(t, p) == w, 15, f"{path} on {target}"))
            owner = on(target).file(f"{MEDIA}/{path}")
            assert (owner.user, owner.group) == ("www-data", "www-data")
        print(f"\n{engine}, {source} -> {target}: {', '.join(f'{t:.2f}' for t in times)} s")


def a_cut_network_loses_nothing(engine: str) -> None:
    one, two = pair = PAIRS[engine]
    network = "webstack-shared_media"
    address = {"media-mesh2": "10.77.8.12", "media-pull2": "10.77.8.22"}[two]
    paths = [f"split-{time.time_ns()}/{side}.bin" for side in pair]
    docker("network", "disconnect", network, two)
    try:
        sums = {path: upload(name, path) for path, name in zip(paths, pair, strict=True)}
        time.sleep(2)
        assert digest(two, paths[0]) == digest(one, paths[1]) == ""
    finally:
        docker("network", "connect", "--ip", address, network, two)
    healed = seconds_until(
        lambda: all(digest(name, path) == wanted for name in pair for path, wanted in sums.items()),
        60,
        "both files on both hosts",
    )
    print(f"\n{engine}: complete {healed:.1f} s after the network came back")


def both_sides_of_a_conflict_are_kept_by_syncthing() -> None:
    one, two = pair = PAIRS["syncthing"]
    seconds_until(lambda: linked(pair), 30, "the mesh is linked")
    folder = f"conflict-{time.time_ns()}"
    first = upload(one, f"{folder}/page.bin")
    seconds_until(lambda: digest(two, f"{folder}/page.bin") == first, 15, "the file on both hosts")
    on(two).check_output("systemctl stop webstack-media-syncthing.service")
    sums = {upload(one, f"{folder}/page.bin"), upload(two, f"{folder}/page.bin")}
    on(two).check_output("systemctl start webstack-media-syncthing.service")

    def both(name: str) -> bool:
        found = on(name).check_output(f"cd {MEDIA}/{folder} && sha256sum *")
        return {line.split()[0] for line in found.splitlines()} == sums

    seconds_until(lambda: both(one) and both(two), 30, "both versions on both hosts")


def a_missing_disk_is_no_deletion() -> None:
    """An empty directory without its marker, as an unmounted disk leaves it, must not empty the other host."""
    one, two = PAIRS["syncthing"]
    wanted = upload(one, "precious.bin")
    seconds_until(lambda: digest(two, "precious.bin") == wanted, 15, "the file on both hosts")
    host = on(two)
    host.check_output(f"systemctl stop webstack-media.target && mv {MEDIA} {MEDIA}.away")
    host.check_output(f"install -d -o www-data -g www-data {MEDIA} && systemctl start webstack-media.target")
    time.sleep(4)
    assert digest(one, "precious.bin") == wanted
    report = host.run("webstack media status webstack-media-syncthing.service")
    assert report.rc == 1
    assert "marker" in report.stdout
    host.check_output(f"systemctl stop webstack-media.target && rmdir {MEDIA} && mv {MEDIA}.away {MEDIA}")
    host.check_output("systemctl start webstack-media.target")
    seconds_until(lambda: linked(PAIRS["syncthing"]), 30, "the mesh is linked")
    assert digest(one, "precious.bin") == digest(two, "precious.bin") == wanted


def rsync_never_deletes() -> None:
    one, two = PAIRS["rsync"]
    wanted = upload(one, "kept.bin")
    seconds_until(lambda: digest(two, "kept.bin") == wanted, 15, "the file on both hosts")
    on(one).check_output(f"systemctl stop webstack-media-pull.timer && rm {MEDIA}/kept.bin")
    time.sleep(2.5)
    assert digest(two, "kept.bin") == wanted
    on(one).check_output("systemctl start webstack-media-pull.timer")
    seconds_until(lambda: digest(one, "kept.bin") == wanted, 15, "the file is fetched again")


@pytest.fixture(scope="module")
def begun() -> Iterator[Begun]:
    """What is done to each pair, one after another. The pairs have nothing to do with each other: both at a time."""
    with ThreadPoolExecutor(1) as mesh, ThreadPoolExecutor(1) as pull:
        lanes = {"syncthing": mesh, "rsync": pull}
        done = {}
        for step in (a_new_file_is_on_the_other_host, a_cut_network_loses_nothing):
            for engine, lane in lanes.items():
                done[engine, step.__name__] = lane.submit(step, engine)
        for own in (both_sides_of_a_conflict_are_kept_by_syncthing, a_missing_disk_is_no_deletion):
            done["syncthing", own.__name__] = mesh.submit(own)
        done["rsync", rsync_never_deletes.__name__] = pull.submit(rsync_never_deletes)
        yield done


@pytest.mark.parametrize("engine", PAIRS)
def test_a_new_file_is_on_the_other_host(begun: Begun, engine: str) -> None:
    begun[engine, "a_new_file_is_on_the_other_host"].result()


@pytest.mark.parametrize("engine", PAIRS)
def test_a_cut_network_loses_nothing(begun: Begun, engine: str) -> None:
    begun[engine, "a_cut_network_loses_nothing"].result()


def test_both_sides_of_a_conflict_are_kept_by_syncthing(begun: Begun) -> None:
    begun["syncthing", "both_sides_of_a_conflict_are_kept_by_syncthing"].result()


def test_a_missing_disk_is_no_deletion(begun: Begun) -> None:
    begun["syncthing", "a_missing_disk_is_no_deletion"].result()


def test_rsync_never_deletes(begun: Begun) -> None:
    begun["rsync", "rsync_never_deletes"].result()


def test_only_members_get_in() -> None:
    # A stranger's address, then a member without the password.
    listing = on("media-mesh1").run("timeout 5 rsync rsync://media@10.77.8.21/media/ </dev/null")
    assert listing.rc != 0
    listing = on("media-pull2").run("RSYNC_PASSWORD=wrong timeout 5 rsync rsync://media@10.77.8.21/media/")
    assert "auth failed" in listing.stderr
    put = on("media-pull2").run(
        "runuser -u www-data -- rsync --password-file=/etc/webstack/media/rsync.password /etc/hostname rsync://media@10.77.8.21/media/"
    )
    assert "read only" in put.stderr
    assert "4711" not in on("media-pull1").check_output("ps axww -o args")
    # Syncthing listens on its own address, and its interface on no port at all.
    listening = on("media-mesh1").check_output("ss -Hltunp")
    assert [line.split()[4] for line in listening.splitlines() if "syncthing" in line] == ["10.77.8.11:22000"]
    socket = on("media-mesh1").file("/run/webstack/media/syncthing.sock")
    assert (socket.user, socket.mode) == ("www-data", 0o600)


REFUSALS: list[tuple[dict[str, str], str]] = [
    ({"shared_media_node_name": "stranger"}, "shared_media_peers must list stranger"),
    ({"shared_media_engine": "rsync"}, "shared_media_password is required"),
    ({"shared_media_engine": "pigeon"}, "shared_media_engine"),
    ({"shared_media_directory": "/srv"}, "shared_media_directory must be an absolute path"),
]


def test_refusals(tmp_path: pathlib.Path) -> None:
    assert_refused("shared_media", "media-mesh1", REFUSALS, tmp_path)


def test_a_run_limited_to_one_host_keeps_the_mesh() -> None:
    result = play("shared_media", "--limit", "media-mesh1")
    assert result.returncode == 0, result.stdout
    assert "changed=0" in result.stdout, result.stdout


def test_the_engine_can_be_changed() -> None:
    """The pair that pulls gets the other engine, none, and its own again."""
    one, two = PAIRS["rsync"]
    before = upload(one, "before.bin")
    seconds_until(lambda: digest(two, "before.bin") == before, 15, "the file on both hosts")
    result = play("shared_media", "--limit", "pull", "-e", "shared_media_engine=syncthing")
    assert result.returncode == 0, result.stdout
    for name in (one, two):
        assert not on(name).service("webstack-media-rsyncd.service").is_running
        assert not on(name).service("webstack-media-pull.timer").is_running
        assert on(name).service("webstack-media-syncthing.service").is_running
    after = upload(two, "after.bin")
    seconds_until(lambda: digest(one, "after.bin") == after, 30, "the new file by the new engine")
    assert digest(one, "before.bin") == before

    result = play("shared_media", "--limit", one, "-e", "shared_media_engine=none")
    assert result.returncode == 0, result.stdout
    assert not on(one).service("webstack-media-syncthing.service").is_running
    assert digest(one, "after.bin") == after

    result = play("shared_media", "--limit", "pull")
    assert result.returncode == 0, result.stdout
    for name in (one, two):
        assert on(name).service("webstack-media-pull.timer").is_running
        assert not on(name).service("webstack-media-syncthing.service").is_running
    again = upload(one, "again.bin")
    seconds_until(lambda: digest(two, "again.bin") == again, 15, "the new file by the first engine")


# What root owns and the account of the uploads must not get.
VICTIM = "/root/victim"
STATE = "/var/lib/webstack/media"


def as_account(name: str, script: str) -> None:
    on(name).check_output(f"runuser -u www-data -- sh -ec '{script}'")


@pytest.fixture
def victim() -> Iterator[str]:
    """A directory of root's with a secret in it, on a host of each engine."""
    for name in ("media-mesh1", "media-pull1"):
        on(name).check_output(f"rm -rf {VICTIM}; install -d -m 0700 {VICTIM}; echo STOLEN=4711 > {VICTIM}/secret.env")
        # A link can only be reached through a directory that may be entered.
        on(name).check_output(f"chmod 0711 /root {VICTIM} && chmod 0600 {VICTIM}/secret.env")
    yield VICTIM
    for name in ("media-mesh1", "media-pull1"):
        on(name).check_output(f"rm -rf {VICTIM} && chmod 0700 /root")


def untouched(name: str) -> None:
    """Nothing came into root's directory, and nothing in it is anybody else's."""
    found = on(name).check_output(f"cd {VICTIM} && stat -c '%U:%G %a %n' . *")
    assert found == "root:root 711 .\nroot:root 600 secret.env", found


def test_a_link_in_place_of_the_state_directory_is_refused_by_name(victim: str) -> None:
    """As an earlier version left it: the directory above belongs to the account, which may rename what is in it."""
    host = on("media-mesh1")
    host.check_output(f"chown www-data:www-data {STATE}")
    as_account("media-mesh1", f"mv {STATE}/syncthing {STATE}/away; ln -s {victim} {STATE}/syncthing")
    try:
        result = play("shared_media", "--limit", "media-mesh1")
        untouched("media-mesh1")
        assert result.returncode != 0
        assert f"{STATE}/syncthing is a link" in result.stdout, result.stdout
    finally:
        host.check_output(
            f"test ! -L {STATE}/syncthing || {{ rm {STATE}/syncthing; mv {STATE}/away {STATE}/syncthing; }}"
        )
    # From here on the account cannot do it again.
    assert host.file(STATE).user == "root"
    assert host.run(f"runuser -u www-data -- mv {STATE}/syncthing {STATE}/away").rc != 0


def test_links_in_the_state_directory_give_the_account_nothing(victim: str) -> None:
    host, home = on("media-mesh1"), f"{STATE}/syncthing"
    as_account("media-mesh1", f"ln -sf {victim}/new {home}/api.env; ln -sf {victim}/new {home}/.api.env.new")
    result = play("shared_media", "--limit", "media-mesh1")
    untouched("media-mesh1")
    assert result.returncode == 0, result.stdout
    # Nor does it read root's files: systemd opens an environment file as root.
    as_account("media-mesh1", f"ln -sf {victim}/secret.env {home}/api.env")
    host.check_output("systemctl restart webstack-media-syncthing.service")
    pid = host.check_output("systemctl show -p MainPID --value webstack-media-syncthing.service")
    assert "STOLEN" not in host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    untouched("media-mesh1")
    as_account("media-mesh1", f"cd {home}; rm -f api.env .api.env.new")
    host.check_output("systemctl restart webstack-media-syncthing.service")


def test_a_link_in_place_of_the_directory_of_the_uploads_is_refused_by_name(
    victim: str, tmp_path: pathlib.Path
) -> None:
    """Below a directory that the application writes."""
    as_account("media-pull1", f"cd {MEDIA}; rm -f inner outer; ln -s {victim} inner; ln -s {victim} outer")
    paths = ("inner", "outer/media")
    inputs = [{"shared_media_directory": f"{MEDIA}/{path}"} for path in paths]
    for path, said in zip(paths, refusals("shared_media", "media-pull1", inputs, tmp_path), strict=True):
        assert f"{MEDIA}/{path.partition('/')[0]} is a link" in said, said
    untouched("media-pull1")
    as_account("media-pull1", f"cd {MEDIA}; rm -f inner outer")


def test_without_the_links_nothing_is_left_to_change() -> None:
    """Neither on the host of the state directory nor on that of the uploads."""
    result = play("shared_media")
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("changed=0") == 4, result.stdout
    seconds_until(lambda: linked(PAIRS["syncthing"]), 30, "the mesh is linked")

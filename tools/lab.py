#!/usr/bin/env python3
"""Lab hosts: Debian machines with systemd, in containers, for the demo, for molecule and for tests.

An Ansible inventory is the only definition of a lab. Every host with a `webstack_address` becomes a
container of the host's name on a bridge with the subnet `webstack_network`. Further variables that only
the lab reads:

  lab_image     lean (default): a bare host; warm: the packages of all roles are already installed
  lab_release   Debian release of the host, "13" (default) or "12"
  lab_names     list of extra names that every host resolves, [{name, address}]
  lab_network6  second subnet of the bridge, IPv6, and
  lab_address6  the host's address in it
  lab_publish   list of [{port, to}]: forward 127.0.0.1:port of this machine through the host to an address:port

Environment: WEBSTACK_LAB_RELEASE (overrides lab_release), WEBSTACK_LAB_IMAGE (overrides lab_image), WEBSTACK_LAB_PORT
(port of this machine for lab_publish).
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODENAMES = {"12": "bookworm", "13": "trixie"}
LABEL = "webstack.lab"
# What Ansible's modules were compiled to, for all labs of an engine: lab/lab_bytecode.py.
BYTECODE = "webstack-lab-bytecode"
# Hosts as a playbook left them, by name: tools/fresh.py.
SNAPSHOT = "webstack-lab-fresh"

# systemd as PID 1 without --privileged; what keepalived, nftables and strace in the lab need, and no more.
RUN_FLAGS = [
    *(f"--cap-add={name}" for name in ("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_NICE")),
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec",
    "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--stop-signal=SIGRTMIN+3",
    "--stop-timeout=20",
]


class LabError(Exception):
    """Something that the user can act on; its text is all that is printed."""


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and result.returncode != 0:
        tail = (result.stderr or result.stdout).strip().splitlines()[-12:]
        raise LabError(f"{' '.join(command[:4])} failed:\n  " + "\n  ".join(tail))
    return result


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return run("docker", *arguments, check=check, **options)


# --- images -----------------------------------------------------------------------------------------


def release(variables: Mapping[str, Any] | None = None) -> str:
    """The Debian of a host, by its variables; of all hosts if the environment names one."""
    word = "WEBSTACK_LAB_RELEASE" if "WEBSTACK_LAB_RELEASE" in os.environ else "lab_release"
    value = os.environ.get(word) or str((variables or {}).get(word, "13"))
    if value not in CODENAMES:
        raise LabError(f"{word} is {value!r}; known are {', '.join(CODENAMES)}")
    return value


def keeps_bytecode(version: str) -> bool:
    """Debian 12 goes without, so that the plain way stays tested."""
    return version != "12"


def kind_of(variables: Mapping[str, Any]) -> str:
    return os.environ.get("WEBSTACK_LAB_IMAGE") or str(variables.get("lab_image", "lean"))


def has_image(name: str) -> bool:
    return docker("image", "inspect", name, check=False).returncode == 0


def apt_uris() -> list[str]:
    """The package sources of this machine, when it is a Debian: [archive, security]."""
    uris: list[str] = []
    for path in sorted(pathlib.Path("/etc/apt").glob("sources.list*/**/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            if "debian-archive-keyring" in stanza and "Enabled: no" not in stanza:
                uris += re.findall(r"^URIs:\s*(\S+)", stanza, re.M)
    lists = [
        pathlib.Path("/etc/apt/sources.list"),
        *pathlib.Path("/etc/apt/sources.list.d").glob("*.list"),
    ]
    for path in lists:
        if path.is_file():
            uris += re.findall(
                r"^deb\s+(?:\[[^\]]*\]\s*)?(\S+/debian(?:-security)?/?)\s",
                path.read_text(),
                re.M,
            )
    archive = next((u for u in uris if u.rstrip("/").endswith("/debian")), None)
    security = next((u for u in uris if u.rstrip("/").endswith("/debian-security")), None)
    return [u for u in (archive, security) if u]


def base_image(version: str) -> tuple[str, bool]:
    """Name of an image with bare Debian, and whether it was made from this machine's own package source."""
    own = f"webstack-lab-base:{version}"
    if has_image(own):
        return own, True
    for name in (f"debian:{CODENAMES[version]}-slim", f"debian:{CODENAMES[version]}"):
        if has_image(name):
            return name, False
    name = f"debian:{CODENAMES[version]}-slim"
    say(f"pulling {name}")
    if run("timeout", "120", "docker", "pull", "--quiet", name, check=False).returncode == 0:
        return name, False
    say("no image registry answers; building the base from this machine's package source (about a minute)")
    uris = apt_uris()
    if not uris or os.geteuid() != 0:
        raise LabError(f"cannot have {name}: no registry answers, and debootstrap needs root on a Debian host")
    if shutil.which("debootstrap") is None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "-qq", "update", env=environment)
        run(
            "apt-get",
            "-qq",
            "install",
            "-y",
            "--no-install-recommends",
            "debootstrap",
            env=environment,
        )
    with tempfile.TemporaryDirectory(prefix="webstack-lab-") as work:
        run(
            "debootstrap",
            "--variant=minbase",
            CODENAMES[version],
            f"{work}/root",
            uris[0],
        )
        with subprocess.Popen(["tar", "-C", f"{work}/root", "-c", "."], stdout=subprocess.PIPE) as archive:
            docker("import", "-", own, stdin=archive.stdout)
    return own, True


def machine_files(folder: pathlib.Path, version: str, own_base: bool) -> None:
    """What this machine needs to reach its package sources, for the image; nothing on an ordinary one."""
    (folder / "etc/apt/apt.conf.d").mkdir(parents=True)
    if own_base:
        name = CODENAMES[version]
        uris = apt_uris()
        lines = [f"deb {uris[0]} {name} main", f"deb {uris[0]} {name}-updates main"]
        if len(uris) > 1:
            lines.append(f"deb {uris[1]} {name}-security main")
        (folder / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
    if shutil.which("apt-config"):
        keys = (
            "Acquire::Check-Valid-Until",
            "Acquire::Check-Date",
            "Acquire::http::Proxy",
        )
        dump = run("apt-config", "dump", "--no-empty", *keys).stdout
        (folder / "etc/apt/apt.conf.d/80machine").write_text(dump)
    bundle = pathlib.Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    pip = ["[global]"]
    if bundle.is_file():
        shutil.copy(bundle, folder / "etc/lab-ca.crt")
        pip.append("cert = /etc/ssl/certs/ca-certificates.crt")
    index = run(sys.executable, "-m", "pip", "config", "get", "global.index-url", check=False)
    if index.returncode == 0:
        pip.append(f"index-url = {index.stdout.strip()}")
    (folder / "etc/pip.conf").write_text("\n".join(pip) + "\n")


def role_packages() -> list[str]:
    """Every package that a role's vars/main.yml lists as `__<role>_packages`."""
    import yaml

    names: set[str] = set()
    for path in ROOT.glob("roles/*/vars/main.yml"):
        for key, value in (yaml.safe_load(path.read_text()) or {}).items():
            if key == f"__{path.parent.parent.name}_packages":
                names.update(value)
    return sorted(names)


def stamp_of(name: str) -> str:
    """What an image of ours was made from; empty without one."""
    return docker(
        "image", "inspect", "--format", '{{index .Config.Labels "webstack.stamp"}}', name, check=False
    ).stdout.strip()


def image(kind: str, version: str = "") -> str:
    """Build the image `kind` (lean or warm) unless it is there and still fits; return its name."""
    version = version or release()
    base, own_base = base_image(version)
    name = f"webstack-lab:{version}" + ("-warm" if kind == "warm" else "")
    packages = " ".join(role_packages()) if kind == "warm" else ""
    sources = "".join(
        (ROOT / "lab" / file).read_text() for file in ("Dockerfile", "lab-host.service", "lab_bytecode.py")
    )
    wanted = sources + packages
    stamp = str(zlib.crc32(wanted.encode()))
    if stamp_of(name) == stamp:
        return name
    say(f"building image {name}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="webstack-lab-") as work:
        context = pathlib.Path(work)
        for file in ("Dockerfile", "lab-host.service"):
            shutil.copy(ROOT / "lab" / file, context)
        machine_files(context / "machine", version, own_base)
        if keeps_bytecode(version):
            folder = context / "machine/usr/lib/python3/dist-packages"
            folder.mkdir(parents=True)
            shutil.copy(ROOT / "lab/lab_bytecode.py", folder)
            (folder / "lab_bytecode.pth").write_text("import lab_bytecode\n")
        # The classic builder is everywhere; buildx is not. `--target lean` comes first so that warm reuses it.
        docker(
            "build",
            "--quiet",
            f"--target={kind}",
            f"--tag={name}",
            f"--label=webstack.stamp={stamp}",
            f"--build-arg=BASE={base}",
            f"--build-arg=PACKAGES={packages}",
            str(context),
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )
    say(f"image {name} built in {time.monotonic() - started:.0f} s")
    return name


# --- hosts ------------------------------------------------------------------------------------------


def inventory(source: str) -> dict[str, dict[str, Any]]:
    """Host name -> variables, for every host that the lab has to make."""
    program = pathlib.Path(sys.executable).parent / "ansible-inventory"
    listing = json.loads(run(str(program), "-i", source, "--list", cwd=ROOT).stdout)
    hosts = {name: v for name, v in listing["_meta"]["hostvars"].items() if "webstack_address" in v}
    if not hosts:
        raise LabError(f"{source} has no host with a webstack_address")
    return hosts


def containers(lab: str) -> list[str]:
    listing = docker("ps", "--all", "--filter", f"label={LABEL}={lab}", "--format", "{{.Names}}")
    return sorted(listing.stdout.split())


def network(hosts: dict[str, dict[str, Any]], lab: str) -> str:
    subnets = {v["webstack_network"] for v in hosts.values()}
    if len(subnets) != 1:
        raise LabError(f"the hosts of a lab share one webstack_network, got {sorted(subnets)}")
    subnet = ipaddress.ip_network(subnets.pop())
    second = sorted({v["lab_network6"] for v in hosts.values() if "lab_network6" in v})
    name = f"webstack-{lab}"
    if docker("network", "inspect", name, check=False).returncode != 0:
        mtu = "1500"
        routes = pathlib.Path("/proc/net/route")
        if routes.exists():  # the narrowest way out decides, else large downloads hang
            default = [line.split() for line in routes.read_text().splitlines() if line.split()[1] == "00000000"]
            if default:
                mtu = pathlib.Path(f"/sys/class/net/{default[0][0]}/mtu").read_text().strip()
        try:
            docker("network", "create", f"--subnet={subnet}", f"--label={LABEL}={lab}",
                   *(option for s in second for option in ("--ipv6", f"--subnet={s}")),
                   f"--opt=com.docker.network.driver.mtu={mtu}", name)  # fmt: skip
        except LabError as error:
            if "overlap" in str(error):
                other = docker(
                    "network",
                    "ls",
                    "--filter",
                    f"label={LABEL}",
                    "--format",
                    "{{.Name}}",
                ).stdout.split()
                hint = f" Running labs: {', '.join(other)} ('make demo-down' ends the demo)." if other else ""
                raise LabError(f"network {subnet} is in use on this machine.{hint}") from error
            raise
    return name


def start(name: str, variables: dict[str, Any], lab: str, net: str, names: list[str], *, kept: bool) -> None:
    state = docker(
        "inspect",
        "--format",
        '{{.State.Running}} {{index .Config.Labels "webstack.lab"}}',
        name,
        check=False,
    )
    if state.returncode == 0:
        running, _, owner = state.stdout.strip().partition(" ")
        if owner != lab:
            raise LabError(f"a container {name!r} of {'the lab ' + owner if owner else 'yours'} is in the way")
        if running != "true":
            docker("start", name)
    else:
        version = release(variables)
        docker(
            "run", "--detach", f"--name={name}", f"--hostname={name}", f"--network={net}",
            f"--ip={variables['webstack_address']}", f"--label={LABEL}={lab}",
            *([f"--ip6={variables['lab_address6']}"] if "lab_address6" in variables else []),
            *(f"--publish=127.0.0.1:{os.environ.get('WEBSTACK_LAB_PORT', p['port'])}:{p['port']}"
              for p in variables.get("lab_publish", [])),
            *(f"--add-host={n}" for n in names), *RUN_FLAGS,
            *([f"--volume={BYTECODE}:/var/cache/lab-bytecode"] if keeps_bytecode(version) else []),
            f"{SNAPSHOT}:{name}" if kept else image(kind_of(variables), version),
        )  # fmt: skip


def ready(name: str, variables: dict[str, Any]) -> None:
    """Wait until systemd says `running`; anything else is an error that names the failed units."""
    deadline = time.monotonic() + 90
    state = ""
    while time.monotonic() < deadline:
        state = docker("exec", name, "systemctl", "is-system-running", check=False).stdout.strip()
        if state == "running":
            break
        if state == "degraded":
            failed = docker(
                "exec",
                name,
                "systemctl",
                "--failed",
                "--no-legend",
                "--plain",
                check=False,
            ).stdout
            raise LabError(f"{name}: a unit failed at boot:\n{failed}")
        time.sleep(0.2)
    else:
        raise LabError(f"{name}: systemd is {state or 'not answering'} after 90 s; see 'docker logs {name}'")
    for item in variables.get("lab_publish", []):
        forward(name, item)


def forward(name: str, item: dict[str, Any]) -> None:
    """systemd's own socket proxy carries a published port to an address that only the lab's network has."""
    unit = f"lab-forward-{item['port']}"
    files = {
        f"{unit}.socket": f"[Socket]\nListenStream={item['port']}\n",
        f"{unit}.service": f"[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd {item['to']}\n",
    }
    for file, text in files.items():
        docker(
            "exec",
            "--interactive",
            name,
            "tee",
            f"/run/systemd/system/{file}",
            input=text,
        )
    docker("exec", name, "systemctl", "daemon-reload")
    docker("exec", name, "systemctl", "start", f"{unit}.socket")


def in_parallel(function: Any, items: Iterator[tuple[Any, ...]] | list[tuple[Any, ...]]) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        for future in [pool.submit(function, *item) for item in items]:
            future.result()


def up(source: str, lab: str, kept: bool = False) -> None:
    """Start the hosts of an inventory; with `kept` from their snapshots."""
    hosts = inventory(source)
    images = {(kind_of(v), release(v)) for v in hosts.values()}
    for kind, version in [] if kept else sorted(images):
        image(kind, version)
    names = [f"{n}:{v['webstack_address']}" for n, v in hosts.items()]
    names += [f"{e['name']}:{e['address']}" for v in list(hosts.values())[:1] for e in v.get("lab_names", [])]
    started = time.monotonic()
    net = network(hosts, lab)
    in_parallel(partial(start, kept=kept), [(n, v, lab, net, names) for n, v in hosts.items()])
    in_parallel(ready, [(n, v) for n, v in hosts.items()])
    say(f"{len(hosts)} hosts of lab {lab} run ({time.monotonic() - started:.1f} s)")


def save(lab: str, stamp: str) -> None:
    """Keep the hosts of a lab as they are; they are shut down for it and booted again."""
    names = containers(lab)
    in_parallel(lambda n: docker("stop", n), [(n,) for n in names])
    change = f"--change=LABEL webstack.stamp={stamp}"
    in_parallel(lambda n: docker("commit", change, n, f"{SNAPSHOT}:{n}"), [(n,) for n in names])
    in_parallel(lambda n: docker("start", n), [(n,) for n in names])
    in_parallel(ready, [(n, {}) for n in names])


def remove_network(name: str) -> None:
    done = docker("network", "rm", name, check=False)
    if done.returncode == 0:
        return
    left = docker("network", "inspect", "--format", "{{len .Containers}}", name).stdout.strip()
    if left != "0" or "has active endpoints" not in done.stderr:
        raise LabError(f"docker network rm {name} failed:\n  {done.stderr.strip()}")
    # Seen once in some hundred labs with Docker 20.10; the next lab of this name uses the network as it is.
    say(f"network {name} stays: the engine counts a container that is gone, until it is restarted")


def down(lab: str) -> None:
    found = containers(lab)
    in_parallel(lambda n: docker("rm", "--force", "--volumes", n), [(n,) for n in found])
    for name in docker("network", "ls", "--quiet", "--filter", f"label={LABEL}={lab}").stdout.split():
        remove_network(name)
    say(f"lab {lab}: {len(found)} hosts removed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for word, text in (
        ("up", "start the hosts of an inventory"),
        ("down", "remove the hosts of a lab"),
    ):
        sub = commands.add_parser(word, help=text)
        sub.add_argument("--lab", required=True, help="name of the lab, for example demo")
        if word == "up":
            sub.add_argument("--inventory", required=True)
    sub = commands.add_parser("image", help="build the images")
    sub.add_argument("kind", choices=["lean", "warm"], nargs="+")
    commands.add_parser("clean", help="remove every lab and every lab image")
    options = parser.parse_args()
    try:
        if docker("info", check=False).returncode != 0:
            raise LabError("no Docker engine answers; 'tools/engine.sh' starts one")
        if options.command == "up":
            up(options.inventory, options.lab)
        elif options.command == "down":
            down(options.lab)
        elif options.command == "image":
            for kind in options.kind:
                image(kind)
        else:
            labs = docker(
                "ps",
                "--all",
                "--filter",
                f"label={LABEL}",
                "--format",
                f'{{{{.Label "{LABEL}"}}}}',
            ).stdout
            for lab in sorted(set(labs.split())):
                down(lab)
            images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
            mine = [n for n in images if n.startswith(("webstack-lab:", "webstack-lab-base:", f"{SNAPSHOT}:"))]
            if mine:
                docker("image", "rm", "--force", *mine)
            docker("volume", "rm", "--force", BYTECODE)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlab: interrupted; run the command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

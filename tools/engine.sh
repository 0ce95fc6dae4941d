#!/usr/bin/env bash
# Make sure that a Docker engine answers; `engine.sh down` stops the one that this script started.
#
# An engine that already runs (Docker Desktop, docker-ce, a remote DOCKER_HOST) is used as it is. Otherwise
# Debian's docker.io is installed and started: by systemd where it is PID 1, else by hand.
set -euo pipefail

state=${XDG_STATE_HOME:-/var/lib}/webstack-lab
log=$state/dockerd.log
say() { printf 'engine: %s\n' "$*"; }
die() { printf 'engine: %s\n' "$*" >&2; exit 1; }

answers() { docker info >/dev/null 2>&1; }

# The engine's own process id, written by dockerd and kept apart from an engine that is not ours.
pidfile=$state/docker.pid

down() {
    [ -s "$pidfile" ] || { say "no engine was started here"; return; }
    if docker ps -q 2>/dev/null | grep -q .; then
        die "containers still run on it; not stopped"
    fi
    pid=$(cat "$pidfile")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && die "process $pid does not end; see $log"
    rm -f "$pidfile"
    say "stopped"
}

install() {
    [ "$(id -u)" = 0 ] || die "no Docker engine answers. Start yours, or run 'sudo tools/engine.sh' once to install and start Debian's docker.io"
    command -v apt-get >/dev/null || die "no Docker engine answers, and this is no Debian: install and start Docker, then try again"
    say "installing docker.io from Debian's packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends docker.io iptables >/dev/null
}

# After a crash a process id in a file may be that of another program by now, and dockerd would wait for it.
forget() {
    [ -s "$1" ] || return 0
    [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ] || rm -f "$1"
}

start() {
    if [ -d /run/systemd/system ]; then
        systemctl start docker
    else
        mkdir -p "$state"
        forget "$pidfile" dockerd
        forget /var/run/docker/containerd/containerd.pid containerd
        # The engine outlives the check that starts it, and a check ends whatever carries its mark.
        # On a cgroup-v1 or hybrid machine systemd in containers needs a v2 view: the engine gets one of its own.
        if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
            setsid env -u WEBSTACK_CHECK dockerd --pidfile "$pidfile" >"$log" 2>&1 </dev/null &
        else
            # shellcheck disable=SC2016  # expanded by the inner shell, on purpose
            setsid env -u WEBSTACK_CHECK unshare --mount --propagation private sh -c \
                'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec dockerd --pidfile "$1"' \
                sh "$pidfile" >"$log" 2>&1 </dev/null &
        fi
    fi
    for _ in $(seq 150); do answers && return; sleep 0.2; done
    tail -n 5 "$log" >&2 2>/dev/null || true
    die "the engine does not answer after 30 s; see ${log}"
}

up() {
    if ! answers; then
        command -v dockerd >/dev/null || install
        [ "$(id -u)" = 0 ] || die "no Docker engine answers, or you may not use it: start it, or join its group ('docker info' tells)"
        say "starting the Docker engine"
        start
    fi
    # Each systemd host takes several inotify instances; the kernel's 128 are used up at about 15 hosts.
    limit=/proc/sys/fs/inotify/max_user_instances
    if [ -w "$limit" ] && [ "$(cat "$limit")" -lt 1024 ]; then echo 1024 >"$limit"; fi
    say "ready: $(docker version --format '{{.Server.Version}}')"
}

case ${1:-up} in
    up) up ;;
    down) down ;;
    *) die "usage: engine.sh [up|down]" ;;
esac

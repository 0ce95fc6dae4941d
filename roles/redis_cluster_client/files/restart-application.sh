#!/bin/sh
# usage: restart-application.sh FILE...
# Restart each mod_wsgi daemon process that is older than the newest of the files, one at a time, and print its id.
#
# SIGUSR1 lets the process finish its requests; Apache starts the next one. Never reload Apache for this: that
# breaks every request that runs longer than a moment. No such process, nothing to do.
set -eu
command -v ps >/dev/null || { echo "there is no ps on this host (package procps): the age of processes is unknown" >&2; exit 1; }

daemons() {
    for directory in /proc/[0-9]*; do
        # Their title, set by display-name, is "(wsgi:GROUP)".
        if tr '\0' ' ' 2>/dev/null <"$directory/cmdline" | grep -q '^(wsgi:'; then
            echo "${directory#/proc/}"
        fi
    done 2>/dev/null
}

# wait_until SECONDS COMMAND...: true as soon as the command is.
wait_until() {
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

is_gone() { ! [ -e "/proc/$1" ]; }
are_back() { [ "$(daemons | wc -l)" -ge "$1" ]; }

newest=$(stat -c %Y "$@" | sort -n | tail -n 1)
age=$(($(date +%s) - newest))
all=$(daemons)
count=$(echo "$all" | wc -w)
for process in $all; do
    running=$(ps -o etimes= -p "$process" | tr -d ' ')
    # Started after the files were written, or gone by itself.
    if [ -z "$running" ] || [ "$running" -lt "$age" ]; then
        continue
    fi
    kill -USR1 "$process" || continue
    echo "$process"
    # As long as mod_wsgi's graceful-timeout at the most; then the next process must not go before this one is back.
    wait_until 60 is_gone "$process" || { echo "process $process does not end" >&2; exit 1; }
    wait_until 20 are_back "$count" || { echo "Apache did not replace process $process" >&2; exit 1; }
done

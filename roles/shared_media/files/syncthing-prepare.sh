#!/bin/sh
# Before Syncthing starts, as its account: take the role's configuration, and mark the directory once.
#   syncthing-prepare HOME DIRECTORY
set -eu
home=$1
directory=$2
umask 077

install -m 0600 /etc/webstack/media/syncthing.xml "$home/config.xml"

# Syncthing stops when the marker is gone, for instance because a disk is not mounted. So it is made for a new directory
# only, never again: an empty mount point would otherwise delete the files of every other host. For the same reason the
# index of another directory must not be held against this one.
if [ "$(cat "$home/directory" 2>/dev/null || true)" != "$directory" ]; then
    rm -rf "$home"/index-* "$home/index"
    mkdir -p "$directory/.stfolder"
    printf '%s\n' "$directory" > "$home/directory"
fi

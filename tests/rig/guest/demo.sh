#!/bin/sh
# The guest of tools/demo --guest: reads a sealed file of its host, and stores into it, with and without DAX.
# What it does is shown by the host before it is done.
. /lib/rig.sh
mkdir -p /mnt
stty -echo </dev/console

tell() { ask "$@" || fail "$1" "$answer"; }
shown() { # shown COMMAND: runs it; what it says goes to the host, too
    ask runs "$@" || exit
    "$@" >/tmp/said 2>&1 || fail "$*" "$(tr '\n' '|' </tmp/said)"
    while read -r line; do
        ask says "$line"
    done </tmp/said
}

shown mount -t virtiofs -o dax=inode pmfs /mnt
tell begin
shown sha256sum /mnt/weights
tell digest "$(cut -d' ' -f1 </tmp/said)"
# (What a program does with mmap(2), a store and a load; the shell has none of them.)
shown file_calls poke /mnt/weights 4096 "a-word-of-the-guest"
tell with_dax
shown umount /mnt
shown mount -t virtiofs -o dax=never pmfs /mnt
tell begin
shown sha256sum /mnt/weights
tell without_dax
umount /mnt

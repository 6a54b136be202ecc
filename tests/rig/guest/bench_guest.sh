#!/bin/sh
# What tools/bench guest measures in a guest: rig_boot=window, operations or memory (tools/benches/guests.py).
# Lines "INFO figure NAME NUMBER..." are its results.
. /lib/rig.sh
mkdir -p /mnt/pmfs /mnt/peer
stty -echo </dev/console

figure() { info "figure $*"; }
with_dax() { mount -t virtiofs -o dax="$1" pmfs /mnt/pmfs || fail "mount -o dax=$1" "no"; }
forget() {
    umount /mnt/pmfs
    echo 3 >/proc/sys/vm/drop_caches
}
free_mib() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }

window() {
    with_dax inode
    first=$(bench_guest touch /mnt/pmfs/gigabyte) || fail "first touch" "$first"
    figure first_touch "$first"
    forget
    mib=$((2 * $(free_mib)))
    ask sealed_of large $mib || fail "a file of $mib MiB" "$answer"
    info "the guest has $(free_mib) MiB free, and the file has $mib MiB"
    round=0
    while [ $round -lt 3 ]; do
        with_dax inode
        dax=$(bench_guest random 1 20000 /mnt/pmfs/large)
        forget
        with_dax never
        cached=$(bench_guest random 1 2000 /mnt/pmfs/large)
        forget
        figure random_large "$dax $cached"
        round=$((round + 1))
    done
    with_dax inode
    cp /mnt/pmfs/fits /tmp/fits
    bench_guest random 9 20000 /mnt/pmfs/fits /tmp/fits | while read -r line; do
        figure random_fits "$line"
    done
    umount /mnt/pmfs
}

operations() {
    mount -t virtiofs pmfs /mnt/pmfs || fail "mount pmfs" "no"
    mount -t virtiofs peer /mnt/peer || fail "mount virtiofsd's" "no"
    bench_fuse compare /mnt/pmfs /mnt/peer 11 | while read -r line; do
        info "$line"
    done
    umount /mnt/pmfs /mnt/peer
}

# Two guests that read one file: rig_tag=, and rig_options= for mount.
memory() {
    # shellcheck disable=SC2086  # words
    mount -t virtiofs $rig_options "$rig_tag" /mnt/pmfs || fail "mount $rig_tag" "no"
    bench_guest read /mnt/pmfs/other # (so that all programs have run once)
    echo 3 >/proc/sys/vm/drop_caches
    ask idle "$(cached_kib)" || fail "idle" "$answer"
    bench_guest read /mnt/pmfs/file
    ask "read" "$(cached_kib)" || fail "read" "$answer"
    umount /mnt/pmfs
}
cached_kib() { awk '/^Cached/ { print $2 }' /proc/meminfo; }

$rig_boot

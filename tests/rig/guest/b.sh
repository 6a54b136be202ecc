#!/bin/sh
# pmfs on a real device-DAX namespace, in three boots of one NVDIMM (the word rig_boot= of the kernel's
# command line): 1 makes a volume and does everything with it; 2 copies until the host kills QEMU; 3
# looks at what is there.  rig_align=: of the namespace; rig_returned=: copies known to have returned.
. /lib/rig.sh
device=/dev/dax0.0
sysfs=/sys/bus/dax/devices/dax0.0
mkdir -p /mnt

status() { pmfsctl status --json /mnt | jq -r ".$1"; }
digest() { pmfsctl info --json "$1" | jq -r .map_digest; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
unmount() { # and wait for the server, as a person would before fsck
    server=$(status server_pid)
    umount /mnt && wait_for 20 is_gone "$server"
}
busy() { refuse "$1" "Text file busy" sh -c "$2"; }

same_tree() { diff -r /usr/lib /mnt/lib && diff -r /modules.d /mnt/modules.d; }

make_namespace() {
    check "ndctl makes a devdax namespace, aligned to $rig_align" \
        ndctl create-namespace --mode=devdax --align="$rig_align" --force --reconfig=namespace0.0 || return 1
    check "the node appears" wait_for 5 test -c $device
    check "libpmem2 and the region: every promise holds on it" \
        env PMFS_TEST_MEDIA=$device unit "--test-case=region: all of it holds*"
}

make_volume() {
    check "mkfs.pmfs" mkfs.pmfs $device
    refuse "mkfs.pmfs overwrites no volume unasked" "contains a pmfs volume" mkfs.pmfs $device
    check "mkfs.pmfs -f" mkfs.pmfs -q -f -L rig $device
    check "mount -t pmfs" mount -t pmfs $device /mnt
    check "the medium is device-DAX" same "$(status medium)" devdax
    check "the size is the one in sysfs, in whole chunks" \
        same "$(status size)" $(($(cat $sysfs/size) / 2097152 * 2097152))
    check "the mapping unit is the namespace's alignment" same "$(status mapping_unit)" "$(cat $sysfs/align)"
    refuse "a mounted volume is not made anew" "is mounted or being checked by another process" mkfs.pmfs -f $device
    refuse "a mounted volume is not checked" "is mounted or being checked by another process" fsck.pmfs $device
    refuse "a volume is mounted once" "is mounted or being checked by another process" mount -t pmfs $device /tmp
}

use_files() {
    check "a tree is copied in" cp -a /usr/lib /modules.d /mnt/
    check "and is the same" same_tree
    head -c 8389842 /dev/urandom >/tmp/original # four units of 2 MiB, and 1234 bytes
    check "a file is written" cp /tmp/original /mnt/sealed
    check "prepared and sealed" pmfsctl seal --prepare /mnt/sealed
    digest /mnt/sealed >/mnt/digest
    busy "sealed: no write past the end" "cat /tmp/original >> /mnt/sealed"
    busy "sealed: no truncate" "truncate -s 1M /mnt/sealed"
    busy "sealed: no O_TRUNC" ": > /mnt/sealed"
    busy "sealed: no punch" "fallocate --punch-hole --offset 0 --length 2M /mnt/sealed"
    busy "sealed: no zeroing" "fallocate --zero-range --offset 0 --length 2M /mnt/sealed"
    busy "sealed: no growth" "fallocate --length 100M /mnt/sealed"
    check "the map did not change" same "$(digest /mnt/sealed)" "$(cat /mnt/digest)"
}

fill() { # to the last block, with bytes that are not zero
    mkdir /mnt/fill
    i=0
    while cp /tmp/original "/mnt/fill/$i" 2>/dev/null; do i=$((i + 1)); done
    [ $i -gt 0 ] && df /mnt
}

map_it() {
    unit=$(cat $sysfs/align)
    check "libpmfs maps $device itself, in whole units" device_map /mnt/sealed $device "$unit"
    check "the volume is filled to the end" fill
    check "the tail of the last unit is still zeroes" device_map /mnt/sealed $device "$unit"
    rm -r /mnt/fill
    check "a program stores and persists through a mapping" map_store /mnt/sealed "stored in a guest"
    check "read(2) sees it" same "$(head -c 17 /mnt/sealed)" "stored in a guest"
    sha256sum </mnt/sealed >/mnt/sum
}

enough_returned() { [ "$(cat /tmp/returned)" -ge 20 ]; }
kill_server() {
    server=$(status server_pid)
    mkdir /mnt/copies
    i=0
    while cp /usr/bin/mkfs.pmfs /mnt/copies/$i 2>/dev/null; do
        i=$((i + 1))
        echo $i >/tmp/returned
        [ $i -lt 300 ] || break
    done &
    check "copies return" wait_for 20 enough_returned
    kill -KILL "$server"
    wait
    check "the server is dead" wait_for 10 is_gone "$server"
    umount -l /mnt
    check "it mounts again at once" mount -t pmfs $device /mnt
    i=0
    while [ $i -lt "$(cat /tmp/returned)" ]; do
        cmp /usr/bin/mkfs.pmfs /mnt/copies/$i >>/tmp/differ 2>&1
        i=$((i + 1))
    done
    check "the $i copies that had returned are whole" same "$(cat /tmp/differ)" ""
    check_sealed "after SIGKILL"
}

check_sealed() {
    check "$1: the seal" same "$(pmfsctl info --json /mnt/sealed | jq -r .seal)" full
    check "$1: the map" same "$(digest /mnt/sealed)" "$(cat /mnt/digest)"
    check "$1: the bytes" same "$(sha256sum </mnt/sealed)" "$(cat /mnt/sum)"
    busy "$1: still no truncate" "truncate -s 1M /mnt/sealed"
}

first_boot() {
    info "persistence domain: $(cat /sys/bus/nd/devices/region0/persistence_domain)"
    make_namespace || return
    make_volume
    use_files
    map_it
    kill_server
    check "umount ends the server" unmount
    check "fsck.pmfs" fsck.pmfs $device
    check "fsck -t pmfs" fsck.pmfs -n $device
}

second_boot() { # the host kills QEMU while this runs
    check "after a clean shutdown: mount" mount -t pmfs $device /mnt
    check_sealed "after a clean shutdown"
    mkdir /mnt/again
    i=0
    while cp /usr/bin/mkfs.pmfs /mnt/again/$i && head -c 17 /mnt/sealed >/dev/null; do
        echo "RETURNED $i"
        rm -f /mnt/again/$((i - 40)) # (that the volume does not fill up)
        i=$((i + 1))
    done
    fail "copying until QEMU is killed" "it ended before"
}

third_boot() {
    cp /dev/null /tmp/differ
    check "after the kill of QEMU: mount" mount -t pmfs $device /mnt
    check_sealed "after the kill of QEMU"
    i=$((rig_returned > 30 ? rig_returned - 30 : 0))
    first=$i
    while [ $i -le "$rig_returned" ]; do
        cmp /usr/bin/mkfs.pmfs /mnt/again/$i >>/tmp/differ 2>&1
        i=$((i + 1))
    done
    check "copies $first to $rig_returned, which had returned, are whole" same "$(cat /tmp/differ)" ""
    check "the tree is the same" same_tree
    check "unseal" pmfsctl unseal /mnt/sealed
    check "then it can be truncated" truncate -s 1M /mnt/sealed
    check "umount" unmount
    check "fsck.pmfs finds nothing" fsck.pmfs $device
    # Takes what is on the device, and the unit that it poisons is lost until the guest ends.
    check "poison: a lost unit is found, and only that" \
        env PMFS_TEST_POISON=$device unit "--test-case=region: poison*"
}

case $rig_boot in
    1) first_boot ;;
    2) second_boot ;;
    3) third_boot ;;
esac
check "no complaint of the kernel" quiet_kernel

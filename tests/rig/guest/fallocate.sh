#!/bin/sh
# Seals by plain fallocate(2): on pmfs, and where nobody knows them.  rig_kernel=patched|stock on the
# kernel's command line says which is to be expected.
. /lib/rig.sh
mnt=/mnt/pmfs
mkdir -p $mnt /mnt/other

digest() { pmfsctl info --json "$1" | jq -r .map_digest; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
unmount() { # and wait for the server, as a person would before fsck
    server=$(pmfsctl status --json $mnt | jq -r .server_pid)
    umount $mnt && wait_for 20 is_gone "$server"
}

fit() { # a file that can be sealed: whole aligned units, all of them written
    head -c 4194404 /dev/urandom >"$1" && pmfsctl prepare "$1"
}

column() { # REGION OPTION...: everything on a new volume
    region=$1
    shift
    WHERE="$medium, "
    export WHERE
    check "$medium, mkfs.pmfs" mkfs.pmfs -q "$@" "$region" || return 1
    check "$medium, mount" mount.pmfs "$region" $mnt || return 1
    check "$medium, the medium" same "$(pmfsctl status --json $mnt | jq -r .medium)" "$medium"
    for verb in column words; do
        check "$medium, a file that is fit" fit $mnt/$verb
        fallocate_seal $verb $mnt/$verb
    done
    check "$medium, a file that is fit" fit $mnt/rights
    fallocate_seal rights $mnt/rights no
    check "$medium, a file that is fit" fit $mnt/kept
    digest $mnt/kept >/tmp/digest
    while_mapped
    after_a_crash "$region"
    as_owner "$region"
    check "$medium, umount" unmount
    check "$medium, fsck.pmfs" fsck.pmfs -n "$region"
}

while_mapped() { # somebody relies on the seal
    map_holder $mnt/kept >/tmp/ready 2>&1 &
    holder=$!
    check "$medium, a program maps the file" wait_for 10 grep -q READY /tmp/ready
    fallocate_seal seal $mnt/kept
    fallocate_seal unseal $mnt/kept EBUSY
    check "$medium, pmfsctl says who" sh -c "pmfsctl holders $mnt/kept | grep -q 'process $holder '"
    kill $holder
    wait $holder 2>/dev/null
    check "$medium, the holder is gone" wait_for 10 sh -c "! pmfsctl holders $mnt/kept | grep -q 'process $holder '"
    fallocate_seal unseal $mnt/kept
    fallocate_seal seal $mnt/kept
    check "$medium, pmfsctl sees the seal" same "$(pmfsctl info --json $mnt/kept | jq -r .seal)" full
}

after_a_crash() { # REGION
    server=$(pmfsctl status --json $mnt | jq -r .server_pid)
    kill -KILL "$server"
    check "$medium, the server is dead" wait_for 10 is_gone "$server"
    umount -l $mnt
    check "$medium, it mounts again" mount.pmfs "$1" $mnt
    WHERE="$medium, after a crash, " fallocate_seal sealed $mnt/kept
    check "$medium, the same map after a crash" same "$(digest $mnt/kept)" "$(cat /tmp/digest)"
}

as_owner() { # REGION
    check "$medium, umount" unmount
    check "$medium, mount with -o seal=owner" mount.pmfs "$1" $mnt -o seal=owner
    WHERE="$medium, mounted again, " fallocate_seal sealed $mnt/kept
    fallocate_seal unseal $mnt/kept
    check "$medium, the same map as ever" same "$(digest $mnt/kept)" "$(cat /tmp/digest)"
    WHERE="$medium, seal=owner, " fallocate_seal rights $mnt/kept yes
}

elsewhere() { # NAME FILE: a filesystem that does not know seals
    WHERE="$1, " fallocate_seal refused "$2"
}

a_file() { head -c 65536 /dev/urandom >"$1"; }

on_disk() { # TYPE OPTIONS: a filesystem on a loop device over tmpfs
    truncate -s 400M /tmp/disk
    check "mkfs.$1" "mkfs.$1" -q /tmp/disk
    check "$1, mount" mount -t "$1" -o loop /tmp/disk /mnt/other || return 1
    a_file /mnt/other/f
    elsewhere "$1" /mnt/other/f
    if [ "$1" = ext4 ]; then
        medium=image
        column /mnt/other/region --size 64M
    fi
    umount /mnt/other
    rm -f /tmp/disk
}

everywhere_else() {
    a_file /tmp/f
    elsewhere tmpfs /tmp/f
    device=$(losetup --find --show /tmp/f)
    elsewhere "block device" "$device"
    losetup -d "$device"
    mkdir -p /tmp/lower /tmp/upper /tmp/work
    a_file /tmp/lower/f
    check "overlayfs, mount" mount -t overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work none /mnt/other
    elsewhere overlayfs /mnt/other/f
    umount /mnt/other
    check "an older FUSE server, mount" server_without_seals /mnt/other
    elsewhere "an older FUSE server" /mnt/other/f
    umount /mnt/other
    on_disk xfs
    on_disk ext4
}

patched() {
    medium=devdax
    check "ndctl makes a devdax namespace" \
        ndctl create-namespace --mode=devdax --align=2M --force --reconfig=namespace0.0 &&
        check "the node appears" wait_for 5 test -c /dev/dax0.0 && column /dev/dax0.0
    medium=memory
    column /tmp/region --size 64M
    rm -f /tmp/region
    everywhere_else
}

stock() { # the same program, and what it must say
    check "mkfs.pmfs" mkfs.pmfs -q --size 64M /tmp/region
    check "mount" mount.pmfs /tmp/region $mnt
    check "a file that is fit" fit $mnt/f
    WHERE="pmfs, " fallocate_seal stock $mnt/f
    a_file /tmp/f
    WHERE="tmpfs, " fallocate_seal stock /tmp/f
    check "another one" fit $mnt/g
    fallocate_seal column $mnt/f >/tmp/column
    check "without the patch the column fails, at SEAL" \
        grep -q "^FAIL SEAL: EOPNOTSUPP instead of success" /tmp/column
    check "pmfsctl seals all the same" pmfsctl seal $mnt/g
    check "umount" unmount
}

$rig_kernel

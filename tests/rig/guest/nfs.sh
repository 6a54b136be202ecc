#!/bin/sh
# A guest that exports a pmfs volume by its kernel's NFS server and mounts the export itself (part_nfs.py).
. /lib/rig.sh
# shellcheck source=tests/rig/guest/nfs_load.sh
. /lib/nfs_load.sh
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery /run/rpcbind /run/sendsigs.omit.d
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state /etc/exports

# `mp`: while the volume is not mounted there is nothing to export, rather than the directory below it.
start_nfs() { exportfs -o rw,fsid=7,no_subtree_check,no_root_squash,sync,mp $export && rpc.nfsd 4; }
# (lockd is the client's, too, in this kernel, and does not end with nfsd: it is told to let the files go.)
stop_nfs() { rpc.nfsd 0 && exportfs -au && exportfs -f && { echo $pm >/proc/fs/nfsd/unlock_filesystem || :; } 2>/dev/null; }

prepare() {
    mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /var/lib/nfs/rpc_pipefs
    mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
    make_volume || return
    check "rpcbind" rpcbind -w || return
    check "rpc.statd" rpc.statd --no-notify
    # (The shortest that the kernel takes: after a start clients may claim what they had for so long.)
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    check "rpc.mountd" rpc.mountd || return
    check "the kernel exports it" start_nfs || return
    echo Y >/proc/fs/nfsd/v4_end_grace # nobody has anything to claim
}

# --- what NFS knows of a file

knows_42() { # FOLDER
    # (nfsd asks the filesystem for a handler of its own for user.*, and FUSE has one for all.)
    refuse "4.2: there are no extended attributes" "not supported" setfattr -n user.color -v blue "$1/lock"
    check "4.2: allocate" fallocate --length 4M "$1/space"
    check "4.2: punch" fallocate --punch-hole --offset 1M --length 1M "$1/space"
    check "4.2: the hole is one" same "$(stat -c %b "$(on_volume "$1")/space")" $((3 << 11))
}
knows_3() { # FOLDER
    check "3: an access control list" setfacl -m u:1000:rw "$1/lock"
    check "3: is stored" sh -c "getfacl -n $(on_volume "$1")/lock 2>/dev/null | grep -q '^user:1000:rw'"
}

sealed() { # FOLDER
    head -c 4194304 /dev/urandom >"$1/sealed"
    sync
    check "$version: (a file is sealed)" pmfsctl seal --prepare "$(on_volume "$1")/sealed"
    drop_caches
    check "$version: a sealed file is read" cmp "$1/sealed" "$(on_volume "$1")/sealed"
    # (NFS has no ETXTBSY.)
    refuse "$version: sealed: no truncate" "Input/output error" truncate -s 1M "$1/sealed"
    refuse "$version: sealed: no growth" "Input/output error" dd if=/dev/zero of="$1/sealed" bs=1M seek=4 count=1 conv=notrunc,fsync
    check "$version: dd overwrites it in place" dd if=/dev/zero of="$1/sealed" bs=4096 seek=1 count=1 conv=notrunc,fsync
    check "$version: and the volume has that" same "$(dd if="$(on_volume "$1")/sealed" bs=4096 skip=1 count=1 2>/dev/null | tr -d '\0' | wc -c)" 0
    rm -f "$1/sealed"
}

both_versions() {
    for version in 4.2 3; do
        check "mount -t nfs -o vers=$version" mounted $version || continue
        folder=$nfs/v$version
        mkdir $folder
        a_tree $folder
        real_programs $folder
        locks $folder
        locks_of_both $folder
        case $version in 4.2) knows_42 $folder ;; 3) knows_3 $folder ;; esac
        sealed $folder
        restarted $folder stopped
        restarted $folder killed
        check "umount $version" umount $nfs
    done
}

# With locks that pmfs keeps.
shared_locks() {
    check "NFS stops" stop_nfs
    check "pmfs stops" stop_pmfs
    check "mount -o local_lock=none" start_pmfs local_lock=none
    check "NFS starts" start_nfs
    echo Y >/proc/fs/nfsd/v4_end_grace
    version="local_lock=none, vers=4.2"
    check "$version: mount" mounted 4.2
    mkdir $nfs/shared
    locks $nfs/shared
    locks_of_both $nfs/shared
    check "$version: umount" umount $nfs
    # (lockd wants locks that are granted later, and the kernel's FUSE has none of these.)
    version="local_lock=none, vers=3"
    check "$version: mount" mounted 3
    refuse "$version: there are no locks" "No locks available" flock -n $nfs/shared/lock true
    check "$version: umount" umount $nfs
    check "$version: mount -o nolock" mount -t nfs -o vers=3,nolock $export $nfs
    check "$version: locks among the programs of one client" held_lock $nfs/shared/lock taken $nfs/shared/lock
    check "$version: umount, nolock" umount $nfs
}

if prepare; then
    both_versions
    shared_locks
fi
stop_nfs
check "pmfs stops at the end" stop_pmfs
check "fsck.pmfs finds nothing" fsck.pmfs -n $region
# (ENOTCONN, of a mount whose server was killed, has no number in NFS.)
check "nfsd knows all errors but that of a dead mount" same "$(dmesg | grep -o 'non-standard errno: -[0-9]*' | sort -u)" "non-standard errno: -107"
check "no other complaint of the kernel" same "$(quiet_kernel | grep -v 'fs/nfsd/vfs.c.*nfserrno')" ""

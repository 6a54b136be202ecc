#!/bin/sh
# A guest that exports a pmfs volume by nfs-ganesha and mounts the export itself (part_nfs.py).
. /lib/rig.sh
# shellcheck source=tests/rig/guest/nfs_load.sh
. /lib/nfs_load.sh
conf=/etc/ganesha/ganesha.conf
log=/tmp/ganesha.log
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/ganesha /var/run/ganesha /run/rpcbind /run/sendsigs.omit.d /taken
touch /var/lib/nfs/state
hostname rig

# (Without what is open on its own export, which it would wait for at its end.)
start_nfs() {
    ganesha.nfsd -f $conf -L $log -N NIV_EVENT -p /run/ganesha.pid 8<&- && wait_for 30 serves && return
    tail -n 8 $log
    return 1
}
serves() { grep -q ":0801 [0:]* 0A " /proc/net/tcp /proc/net/tcp6; } # somebody listens at port 2049
stop_nfs() {
    server=$(cat /run/ganesha.pid) && kill "$server" && wait_for 30 is_gone "$server"
}
restart_nfs() { stop_nfs && start_nfs; }
number_of() { stat -c %d $pm; }

prepare() {
    check "rpcbind" rpcbind -w || return
    check "rpc.statd" rpc.statd --no-notify || return
    make_volume || return
    check "nfs-ganesha exports it" start_nfs
}

# --- what it knows of a file

knows() { # FOLDER
    echo content >"$1/file"
    refuse "$version: there are no extended attributes" "not supported" setfattr -n user.color -v blue "$1/file"
    refuse "$version: nothing is sealed" "not supported" setfattr -n user.pmfs.seal -v full "$1/file"
    refuse "$version: there are no access control lists" "not supported" setfacl -m u:1000:rw "$1/file"
    refuse "$version: nothing is allocated" "not supported" fallocate --length 4M "$1/file"
    mkdir -m 777 "$1/users"
    check "$version: a user makes a file" su user -c "echo mine >$1/users/file"
    check "$version: which is the user's" same "$(stat -c '%u %g' "$(on_volume "$1")/users/file")" "1000 1000"
    refuse "$version: root's file is not the user's" "Permission denied" su user -c "echo mine >>$1/file"
}

sees_changes() { # FOLDER: which programs on the machine itself make
    echo old >"$1/changed"
    mkdir "$1/directory"
    check "$version: (an old file)" same "$(cat "$1/changed"; ls "$1/directory")" old
    echo a longer one >"$(on_volume "$1")/changed"
    touch "$(on_volume "$1")/directory/name"
    drop_caches
    check "$version: what the volume's own programs change is seen" same "$(cat "$1/changed"; ls "$1/directory")" "a longer one
name"
    rm "$(on_volume "$1")/directory/name"
    drop_caches
    check "$version: and what they remove" same "$(ls "$1/directory")" ""
}

make_sealed() { # FOLDER
    head -c 4194304 /dev/urandom >"$1/sealed"
    sync "$1/sealed"
    check "$version: (a file is sealed)" pmfsctl seal --prepare "$(on_volume "$1")/sealed"
    drop_caches
    check "$version: a sealed file is read" cmp "$1/sealed" "$(on_volume "$1")/sealed"
    check "$version: dd overwrites it in place" dd if=/dev/zero of="$1/sealed" bs=4096 seek=1 count=1 conv=notrunc,fsync
    check "$version: and the volume has that" same "$(dd if="$(on_volume "$1")/sealed" bs=4096 skip=1 count=1 2>/dev/null | tr -d '\0' | wc -c)" 0
}
grow() { dd if=/dev/zero of="$1" bs=1M seek=4 count=1 conv=notrunc,fsync; }
has_size() { [ "$(stat -c %s "$1")" = "$2" ]; }

# (ganesha makes ETXTBSY a conflict of shares, and a locked file.)
sealed_4() { # FOLDER
    make_sealed "$1"
    refuse "$version: sealed: no truncate" "Permission denied" truncate -s 1M "$1/sealed"
    refuse "$version: sealed: no growth" "Resource temporarily unavailable" grow "$1/sealed"
    check "$version: sealed: it is as it was" has_size "$(on_volume "$1")/sealed" 4194304
    check "$version: sealed: it is removed" rm "$1/sealed"
}
# (And "try again", which a client of version 3 does until the seal is gone.)
sealed_3() { # FOLDER
    make_sealed "$1"
    check "$version: sealed: a truncate waits until it is killed" same "$(timeout 10 truncate -s 1M "$1/sealed"; echo $?)" 143
    grow "$1/sealed" >/tmp/grow 2>&1 &
    grower=$!
    sleep 10
    check "$version: sealed: so does growth" kill -0 $grower
    check "$version: sealed: it is as it was" has_size "$(on_volume "$1")/sealed" 4194304
    check "$version: sealed: (the seal is taken off)" pmfsctl unseal "$(on_volume "$1")/sealed"
    check "$version: sealed: then it grows" wait $grower
    check "$version: sealed: by what was written" has_size "$(on_volume "$1")/sealed" 5242880
}

# What a program on the machine itself has locked is an error for a client, rather than a lock to wait for: ganesha's
# answer has no owner that the client could read. It is the same on ext4.
locks_with_the_machine() { # FOLDER
    make_database "$1/held"
    refuse "$version: a client's lock keeps the machine's programs away" "database is locked" \
        holding "$1/held" sqlite3 "$(on_volume "$1")/held" "begin exclusive"
    refuse "$version: the machine's lock is an error for a client" "Input/output error" \
        holding "$(on_volume "$1")/held" flock -n "$1/held" true
}

# --- which handles survive

# A handle has the number of the mount's device in it, and the kernel gives a mount the lowest that is free.
other_number() { # FOLDER
    number=$(number_of)
    echo kept >"$1/kept"
    refuse "$version: while it is exported the volume stays mounted" "target is busy" umount $pm
    check "$version: ganesha and pmfs stop" sh_stop
    mount -t tmpfs taken /taken
    check "$version: (another mount has its number)" same "$(stat -c %d /taken)" "$number"
    check "$version: (they start again)" start_both
    refuse "$version: with another number handles are stale" "Stale file handle" cat "$1/kept"
    check "$version: (they stop)" sh_stop
    umount /taken
    check "$version: (they start again without the other mount)" start_both
    check "$version: (it has its number back)" same "$(number_of)" "$number"
    check "$version: with the same number handles are good" same "$(cat "$1/kept")" kept
}
start_both() { start_pmfs && start_nfs; }

version_4() {
    version=4.1
    refuse "version 4.2 is not offered" "rotocol not supported" mounted 4.2
    check "mount -t nfs takes version 4.1" mount -t nfs $export $nfs || return
    check "it is version 4.1" grep -q " $nfs nfs4 .*vers=4.1" /proc/mounts
    folder=$nfs/v4
    mkdir $folder
    a_tree $folder
    real_programs $folder
    locks $folder
    locks_with_the_machine $folder
    knows $folder
    sees_changes $folder
    sealed_4 $folder
    restarted $folder stopped
    restarted $folder killed
    other_number $folder
    check "$version: umount" umount $nfs
}

# With version 3, 4.2, and as long a time for what it has cached as usual.
usual_configuration() {
    sed '/Minor_Versions/d; /Attr_Expiration_Time/d; s/Protocols = 4;/Protocols = 3, 4; mount_path_pseudo = true;/' $conf >/tmp/usual.conf
    conf=/tmp/usual.conf
    check "nfs-ganesha starts with version 3, too" restart_nfs
    # (It takes the READ_PLUS of Linux 6.6 and later and answers wrongly.)
    version=4.2
    check "4.2: mount" mounted 4.2
    seq 1 100000 >$nfs/read
    echo old >$nfs/late
    check "4.2: umount" umount $nfs
    check "4.2: a file is written" same "$(wc -l <$pm/read)" 100000
    check "4.2: mount again" mounted 4.2
    cat $nfs/read >/tmp/read 2>/dev/null
    info "4.2: $(wc -c </tmp/read) of $(wc -c <$pm/read) bytes are read"
    check "4.2: and cannot be read" test "$(md5sum </tmp/read)" != "$(md5sum <$pm/read)"
    check "4.2: (a file has its old size)" has_size $nfs/late 4
    echo a longer one >$pm/late
    drop_caches
    check "4.2: what changes on the volume is not seen at once" has_size $nfs/late 4
    check "4.2: umount" umount $nfs

    version=3
    check "3: mount -o nolock" mounted 3 nolock || return
    folder=$nfs/v3
    mkdir $folder
    real_programs $folder
    make_database $folder/db
    check "3: SQLite in two programs" counted_by $folder/db $folder/db
    sealed_3 $folder
    restarted $folder stopped
    check "3: umount" umount $nfs
}

# With locks that pmfs keeps.
shared_locks() {
    conf=/etc/ganesha/ganesha.conf
    check "ganesha and pmfs stop" sh_stop
    check "mount -o local_lock=none" start_pmfs local_lock=none
    check "ganesha starts" start_nfs
    version="local_lock=none, vers=4.1"
    check "$version: mount" mounted 4.1
    mkdir $nfs/shared
    locks $nfs/shared
    locks_with_the_machine $nfs/shared
    check "$version: umount" umount $nfs
}

if prepare; then
    version_4
    usual_configuration
    shared_locks
fi
check "ganesha stops at the end" stop_nfs
check "pmfs stops at the end" stop_pmfs
check "fsck.pmfs finds nothing" fsck.pmfs -n $region
check "no complaint of the kernel" quiet_kernel

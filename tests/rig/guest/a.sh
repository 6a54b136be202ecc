#!/bin/sh
# A guest whose files are served by this machine over virtiofs.  rig_boot= on the kernel's command line:
# everything: all that works without a window, then a reboot; writer: writes until the host kills QEMU;
# after: looks at what is there, then the host kills the server; again: a short look; dax: with a window.
# `ask` has the host look at the same files through its own mount (part_a.py).
. /lib/rig.sh
mnt=/mnt/pmfs
mkdir -p $mnt
export GIT_AUTHOR_NAME=rig GIT_AUTHOR_EMAIL=rig GIT_COMMITTER_NAME=rig GIT_COMMITTER_EMAIL=rig
stty -echo </dev/console

sum_of() { md5sum <"$1" | cut -d' ' -f1; }
busy() { refuse "$1" "Text file busy" sh -c "$2"; }
mounted() { mount -t virtiofs "$@" pmfs $mnt; } # mounted [-o OPTIONS]
same_bytes() { ask md5 "$1" && same "$(sum_of $mnt/"$1")" "$answer"; }
same_names() { ask names "$1" && same "$(find $mnt/"$1" -maxdepth 1 -mindepth 1 | sed 's,.*/,,' | sort | md5sum)" "$answer  -"; }
same_attributes() { ask attributes "$1" && same "$(stat -c '%a %h %u %g %s %Y %i' $mnt/"$1")" "$answer"; }

without_a_window() {
    refuse "dax=always is refused where there is no window" "" mounted -o dax=always
    check "and the kernel says why" sh -c "dmesg | grep -q \"dax can't be enabled as filesystem device does not support it\""
    check "dax=inode mounts without DAX" mounted -o dax=inode
    check "and a file can be read" cmp -n 100000 $mnt/host/large $mnt/host/large
    check "umount" umount $mnt
}

data() {
    check "it reads what the host wrote" same_bytes host/text
    check "a file of 64 MiB has the host's digest" same_bytes host/large
    head -c 3000001 /dev/urandom >/tmp/original
    check "it writes a file" cp /tmp/original $mnt/guest/file
    check "and reads it" cmp /tmp/original $mnt/guest/file
    check "the host reads what it wrote" same_bytes guest/file
    echo more >>$mnt/guest/file
    check "and what it appended" same_bytes guest/file
    check "size, mode, owner, time and number are the same here and there" same_attributes guest/file
    check "a binary runs from the mount" cp /usr/bin/busybox $mnt/guest/busybox
    check "and does what it should" same "$($mnt/guest/busybox echo it runs)" "it runs"
    for verb in space map grow direct locks shrink; do
        file_calls $verb $mnt/guest/$verb
    done
    check "the host has the bytes that were stored by mmap" same_bytes guest/map
    check "and those that were written by O_DIRECT" same_bytes guest/direct
    check "and those that were stored at a new end" ask reads guest/grow $((50 * 100000 + 4 * 1048576 - 3)) end
}

names() {
    cd $mnt/guest || return
    check "mkdir" mkdir -p a/b/c
    i=0
    while [ $i -lt 300 ]; do
        : >a/name-$i
        i=$((i + 1))
    done
    check "300 names, also for the host" same_names guest/a
    check "and the host's names" same_names host
    check "rename" mv a/name-0 a/b/renamed
    check "rename over" mv a/name-1 a/name-2
    check "rename of a directory" mv a/b a/B
    check "unlink" rm a/name-3 a/name-4
    check "rmdir" rmdir a/B/c
    refuse "rmdir of what is not empty" "not empty" rmdir a
    check "link" ln file other
    check "two names" same "$(stat -c %h file)" 2
    check "symlink" ln -s ../file a/link
    check "readlink" same "$(readlink a/link)" ../file
    check "a symlink leads to its file" cmp a/link file
    check "mkfifo" mkfifo fifo
    check "mknod" mknod null c 1 3
    check "the host sees the same names" same_names guest/a
    check "and these" same_names guest
    check "chmod, chown, times" sh -c "chmod 640 other && chown 5:6 other && touch -d 2020-02-03 other"
    check "the host sees them" same_attributes guest/other
    chown 0:0 other
    check "an xattr" setfattr -n user.color -v blue file
    check "the host sees it" ask xattr guest/file user.color blue
    check "getfattr" same "$(getfattr --only-values -n user.color file)" blue
    check "listxattr" same "$(getfattr file | grep -c color)" 1
    check "it is removed" setfattr -x user.color file
    refuse "and gone" "No such attribute" getfattr -n user.color file
    check "a file of root's alone" sh -c "echo secret >mine && chmod 600 mine"
    file_calls rights mine
    cd /
    check "statfs says what the host says" same_space
}

has_size() { [ "$(stat -c %s "$2")" = "$1" ]; }
same_space() { ask space && same "$(stat -f -c '%b %S %c' $mnt)" "$answer"; }

# What the host changes; it may take the time that a guest may keep attributes and names.
host_changes() {
    check "(the host's file is read once)" cat $mnt/host/text
    check "the host appends" ask append host/text "a-line-of-the-host"
    check "the guest reads it" wait_for 5 grep -q a-line-of-the-host $mnt/host/text
    check "all of it" same_bytes host/text
    check "the host renames" ask rename host/text host/renamed
    check "the guest sees the new name" wait_for 5 test -e $mnt/host/renamed
    check "and not the old one" wait_for 5 test ! -e $mnt/host/text
    check "the host truncates" ask truncate host/renamed 7
    check "the guest sees the size" wait_for 5 has_size 7 $mnt/host/renamed
    check "the host unlinks" ask unlink host/renamed
    check "the guest sees it" wait_for 5 test ! -e $mnt/host/renamed
    check "and the names" same_names host
}

seals() {
    for name in trusted user; do
        check "(a file that is fit, for $name.pmfs.seal)" ask prepared guest/fit-$name
        WHERE="by $name.pmfs.seal: " XATTR=$name.pmfs.seal fallocate_seal column $mnt/guest/fit-$name
    done
    check "(a file that is fit)" ask prepared guest/sealed
    check "it is sealed" setfattr -n trusted.pmfs.seal -v full $mnt/guest/sealed
    check "the host sees the seal" ask seal guest/sealed full
    check "its state can be read" same "$(getfattr --only-values -n user.pmfs.seal $mnt/guest/sealed)" full
    fallocate_seal stock $mnt/guest/file
    sealed_is_busy
    check "the host unseals it" ask unseal guest/sealed
    check "then the guest truncates it" truncate -s 4096 $mnt/guest/sealed
    check "the host seals a file" ask sealed guest/of-host
    busy "which the guest cannot truncate" "truncate -s 0 $mnt/guest/of-host"
    check "but write in place" dd if=/tmp/original of=$mnt/guest/of-host bs=4096 count=10 conv=notrunc
    check "and the host reads it" same_bytes guest/of-host
}

sealed_is_busy() {
    busy "sealed: no truncate" "truncate -s 1000 $mnt/guest/sealed"
    busy "sealed: no O_TRUNC" ": >$mnt/guest/sealed"
}

# Real programs, in a folder of their own.
databases() { # FOLDER
    mkdir -p "$1"
    check "sqlite makes a database" sqlite3 "$1/db" "pragma journal_mode=wal;
        create table t(n, text); insert into t
        select value, hex(randomblob(200)) from generate_series(1, 2000);" || return
    if [ "$rig_dax" = always ]; then
        # (It truncates files that are mapped, which is an error there; but nothing is wrong then.)
        two_writers "$1/db" >/dev/null 2>&1
        check "whatever became of two programs that write, it is whole" same "$(sqlite3 "$1/db" "pragma integrity_check")" ok
        return
    fi
    check "two programs write to it at once" two_writers "$1/db"
    check "it is whole" same "$(sqlite3 "$1/db" "pragma integrity_check; select count(*) from t")" "ok
2200"
    check "the host finds it whole" ask database "${1#"$mnt/"}/db" 2200
}

repositories() { # FOLDER
    mkdir -p "$1"
    check "git makes a repository" a_repository "$1/repository"
    check "git clones it" git clone -q --template= --no-local "$1/repository" "$1/clone"
    check "git finds nothing wrong in the clone" git -C "$1/clone" fsck --full
    check "the clone has the same files" same "$(cat "$1"/clone/file-* | md5sum)" "$(cat "$1"/repository/file-* | md5sum)"
}

builds() { # FOLDER
    mkdir -p "$1"
    check "a project is copied in" cp /project/* "$1/"
    check "make and a C compiler build it" make -s -C "$1" -f project.mk
    check "what they built does what it should" same "$("$1/units")" 820
    "$1/file_calls" space "$1/checked"
    # With dax=always a file's time changes also when the guest gives back a range that it has stored to, which is
    # when it needs the place: make goes by times.
    [ "$rig_dax" != always ] || return
    check "then there is nothing to do" make -q -C "$1" -f project.mk
    check "one unit is changed" sh -c "echo 'int unit_7(void) { return 107; }' >$1/unit-7.c"
    check "and built anew" make -s -C "$1" -f project.mk
    check "with what depends on it" same "$("$1/units")" 920
}

two_writers() {
    add_rows "$1" &
    add_rows "$1"
    added=$?
    wait $! && [ $added = 0 ]
}
add_rows() {
    rows=0
    while [ $rows -lt 10 ]; do
        sqlite3 -cmd ".timeout 20000" "$1" "insert into t select value, 'x' from generate_series(1, 10)" || return 1
        rows=$((rows + 1))
    done
}

a_repository() {
    git init -q --template= "$1" && cd "$1" || return 1
    for number in 1 2 3 4 5 6 7 8; do
        head -c 30000 /dev/urandom >file-$number
    done
    git add . && git commit -q -m "eight files" && cd /
}

everything() {
    without_a_window
    check "mount -t virtiofs" mounted || return
    check "the type is virtiofs" grep -q "^pmfs $mnt virtiofs " /proc/mounts
    if [ -e $mnt/guest/sum ]; then
        after_the_reboot
        return
    fi
    check "(a directory)" mkdir $mnt/guest
    data
    names
    host_changes
    seals
    databases $mnt/guest/programs
    repositories $mnt/guest/programs
    builds $mnt/guest/project
    sum_of $mnt/guest/file >$mnt/guest/sum
    check "umount" umount $mnt
    check "nothing is there without a mount" same "$(ls $mnt)" ""
    check "it mounts again in the same boot" mounted
    check "with the same bytes" same "$(sum_of $mnt/guest/file)" "$(cat $mnt/guest/sum)"
    check "no complaint of the kernel" quiet_kernel
    echo "rig: reboots after $(cut -d' ' -f1 /proc/uptime) s"
    reboot -f # (and leaves the mount as it is)
}

after_the_reboot() {
    check "after a reboot: the same bytes" same "$(sum_of $mnt/guest/file)" "$(cat $mnt/guest/sum)"
    check "after a reboot: the seal of the host" ask seal guest/of-host full
    busy "after a reboot: no truncate" "truncate -s 0 $mnt/guest/of-host"
    check "after a reboot: it writes" cp /usr/bin/busybox $mnt/guest/after
    check "after a reboot: the host reads it" same_bytes guest/after
    check "after a reboot: umount" umount $mnt
}

writer() { # the host kills QEMU while this runs
    check "mount -t virtiofs" mounted || return
    check "(a file that is fit)" ask prepared sealed
    check "(sealed)" setfattr -n trusted.pmfs.seal -v full $mnt/sealed
    check "(a lock that is never given back)" sh -c "flock $mnt/sealed true"
    mkdir $mnt/copies
    flock $mnt/sealed sleep 1000 &
    i=0
    while cp /usr/bin/file_calls $mnt/copies/$i; do
        echo "RETURNED $i"
        rm -f $mnt/copies/$((i - 20)) # (that the volume does not fill up)
        i=$((i + 1))
    done
    fail "writing until QEMU is killed" "it ended before"
}

# --- with a window ------------------------------------------------------------------------------------

# How many requests of these kinds this kernel has sent since `count_requests`: its own trace is a witness
# that is not ours.
tracing=/sys/kernel/tracing
count_requests() {
    [ -d $tracing/events ] || mount -t tracefs trace $tracing
    echo 0 >$tracing/tracing_on
    echo >$tracing/trace
    echo 1 >$tracing/events/fuse/fuse_request_send/enable && echo 1 >$tracing/tracing_on
}
requests() { grep -cE "fuse_request_send:.*\(FUSE_($1)\)" $tracing/trace; }

counted() { ask counted "$rig_role" && echo "$answer"; }

dax_file() { # NAME MIB SEED: stores by mmap, and who sees it
    name=$1
    shift
    before=$(counted)
    count_requests
    file_calls store $mnt/"$name" "$@"
    file_calls verify $mnt/"$name" "$@"
    check "$name: no byte was written by a request" same "$(requests WRITE)" 0
    check "$name: no byte was read by a request" same "$(requests READ)" 0
    check "$name: nor has the server counted one" same "$(counted)" "$before"
    info "$name: $(requests SETUPMAPPING) ranges of it were mapped, $(requests REMOVEMAPPING) times some taken back"
    check "$name: some were mapped" test "$(requests SETUPMAPPING)" -gt 0
    check "$name: the host reads what was stored" ask words "$name" "$@"
}

# A program that has all of a file mapped (a kernel may forget the ranges of what nobody has open).
hold() {
    rm -f /tmp/holding /tmp/release
    file_calls hold $mnt/"$1" &
    holder=$!
    check "(a program maps all of $1)" wait_for 20 test -e /tmp/holding
}
release() {
    touch /tmp/release
    check "(the program ends)" wait $holder
}

dax() {
    check "mount -o dax=$rig_dax" mounted -o dax="$rig_dax" || return
    check "(a sealed file)" ask sealed_of sealed-"$rig_dax" 16
    file_calls is_dax $mnt/sealed-"$rig_dax" yes
    dax_file sealed-"$rig_dax" 16 7
    hold sealed-"$rig_dax"
    file_calls punch $mnt/sealed-"$rig_dax"
    check "the host sees who holds it" ask held sealed-"$rig_dax"
    check "the host cannot unseal it" ask stays_sealed sealed-"$rig_dax"
    release
    head -c 3000001 /dev/urandom >/tmp/original
    check "an ordinary file" cp /tmp/original $mnt/plain-"$rig_dax"
    check "and the host reads it" same_bytes plain-"$rig_dax"
    if [ "$rig_dax" = inode ]; then
        file_calls is_dax $mnt/plain-inode no
        file_calls into $mnt/plain-inode $mnt/sealed-inode
        check "the host reads what came into the mapping" ask same_head plain-inode sealed-inode 1048576
    else
        file_calls is_dax $mnt/plain-always yes
    fi
    for verb in space map direct locks shrink; do
        file_calls $verb $mnt/$verb-"$rig_dax"
    done
    check "the host reads what was stored when it was truncated" ask reads shrink-"$rig_dax" 2097152 the-end
    file_calls grow $mnt/growing-"$rig_dax"
    check "the host reads what was appended" ask grown growing-"$rig_dax" 100000 50
    cp /usr/bin/busybox $mnt/busybox-"$rig_dax"
    check "a binary runs from the mount" same "$($mnt/busybox-"$rig_dax" echo it runs)" "it runs"
    databases $mnt/programs-"$rig_dax"
    repositories $mnt/programs-"$rig_dax"
    builds $mnt/project-"$rig_dax"
    protected
    shared
    check "umount" umount $mnt
    check "then the host can unseal it" ask unseal sealed-"$rig_dax"
}

# A file that nobody may write is in no window.  Elsewhere than with dax=always there is another way to it.
protected() {
    check "(a sealed file is made immutable)" ask protected kept-"$rig_dax"
    if [ "$rig_dax" = always ]; then
        refuse "an immutable file cannot be read, sealed or not" "Operation not permitted" md5sum $mnt/kept-always
    else
        check "an immutable file is read by requests" same_bytes kept-"$rig_dax"
    fi
    check "(it is so no more)" ask unprotected kept-"$rig_dax"
    check "then the guest reads it" same_bytes kept-"$rig_dax"
}

# Two guests and the host on one sealed file, each at its own words (rig_role=1 or 2).
shared() {
    other=$((3 - rig_role))
    hold shared
    check "two guests: both are there" ask meet
    check "two guests: stores" file_calls poke $mnt/shared $((rig_role * 4096)) word-of-$rig_role
    check "two guests: both have stored" ask meet
    check "two guests: loads what the other stored" file_calls peek $mnt/shared $((other * 4096)) word-of-$other
    check "two guests: the host reads it" ask reads shared $((rig_role * 4096)) word-of-$rig_role
    [ $rig_role = 2 ] || check "two guests: the host writes" ask writes shared 2097152 word-of-host
    check "two guests: the host has written" ask meet
    count_requests
    check "two guests: loads what the host wrote" file_calls peek $mnt/shared 2097152 word-of-host
    check "two guests: no request to read" same "$(requests READ)" 0
    check "two guests: no further range was mapped" same "$(requests SETUPMAPPING)" 0
    check "two guests: the host has their words" ask meet
    release
}

# A window that holds a part of the files only: ranges are taken from some for others all the time.
small_window() {
    check "mount -o dax=inode" mounted -o dax=inode || return
    check "(a large sealed file)" ask sealed_of one 96
    check "(another)" ask sealed_of two 96
    count_requests
    file_calls store $mnt/two 96 22 >/tmp/two &
    file_calls store $mnt/one 96 21
    wait $!
    file_calls verify $mnt/one 96 21 >/tmp/one &
    file_calls verify $mnt/two 96 22
    wait $!
    cat /tmp/one /tmp/two
    check "small window: ranges were mapped again and again" test "$(requests SETUPMAPPING)" -gt 96
    check "small window: no byte was written by a request" same "$(requests WRITE)" 0
    check "small window: the host reads one" ask words one 96 21
    check "small window: the host reads the other" ask words two 96 22
    check "small window: umount" umount $mnt
}

# The host kills QEMU, or the server, while ranges are mapped.
dax_until_killed() {
    check "mount -o dax=inode" mounted -o dax=inode || return
    check "(a sealed file)" ask sealed_of kept 8
    file_calls store $mnt/kept 8 "$rig_seed"
    check "the host reads it" ask words kept 8 "$rig_seed"
    $rig_then
}

wait_for_the_end() {
    hold kept
    check "the host sees who holds it" ask held kept
    echo "READY"
    sleep 1000
}

server_killed() {
    file_calls outlive $mnt/kept 8 99 &
    check "(a program maps all of it)" wait_for 20 test -e /tmp/holding
    check "(the server is killed)" ask kill
    touch /tmp/killed
    check "(it stores)" wait_for 20 test -e /tmp/outlived
    echo "rig: end after $(cut -d' ' -f1 /proc/uptime) s"
    sleep 1000
}

after() { # another guest on the same socket; then the server is killed
    check "after the kill of a guest: mount" mounted || return
    cp /dev/null /tmp/differ
    i=$((rig_returned > 15 ? rig_returned - 15 : 0))
    while [ $i -le "$rig_returned" ]; do
        cmp /usr/bin/file_calls $mnt/copies/$i >>/tmp/differ 2>&1
        i=$((i + 1))
    done
    check "after the kill of a guest: the files that had returned are whole" same "$(cat /tmp/differ)" ""
    busy "after the kill of a guest: its seal" "truncate -s 0 $mnt/sealed"
    check "after the kill of a guest: its lock is gone" flock -n $mnt/sealed true
    check "after the kill of a guest: it writes" file_calls fill $mnt/whole 8 1
    check "the server is killed" ask kill
    (
        stat $mnt/sealed
        touch /tmp/answered
    ) >/dev/null 2>&1 &
    # shellcheck disable=SC2016
    check "the server is dead: the guest lives" same "$(sleep 2; echo alive)" alive
    check "the server is dead: what asks it waits" test ! -e /tmp/answered
    check "the server is dead: the kernel is well" quiet_kernel
    # (A sync would wait, too.)
    echo "rig: end after $(cut -d' ' -f1 /proc/uptime) s"
    sleep 1000
}

again() {
    check "after the kill of the server: mount" mounted || return
    check "after the kill of the server: what had returned" file_calls verify $mnt/whole 8 1
    busy "after the kill of the server: the seal" "truncate -s 0 $mnt/sealed"
    check "after the kill of the server: umount" umount $mnt
}

$rig_boot
check "no complaint of the kernel" quiet_kernel

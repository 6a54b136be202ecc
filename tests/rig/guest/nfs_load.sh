# shellcheck shell=sh
# shellcheck disable=SC2016,SC2154
# What clients of an exported volume do, and what both servers of NFS are tried with.  Sourced by nfs.sh and
# ganesha.sh, which say:
#
#     start_nfs, stop_nfs     the server of NFS; `version` is what the client uses
#
# The volume is mounted at $pm and the export at $nfs.
pm=/pm
nfs=/nfs
region=/dev/shm/region
export=127.0.0.1:$pm
rounds=15
names=400
tree=/usr/include/x86_64-linux-gnu/bits
export GIT_AUTHOR_NAME=rig GIT_AUTHOR_EMAIL=rig GIT_COMMITTER_NAME=rig GIT_COMMITTER_EMAIL=rig

mounted() { mount -t nfs -o "vers=$1,hard,timeo=30,retrans=3${2:+,$2}" $export $nfs; } # mounted VERSION [OPTIONS]
server_of() { pmfsctl status --json $pm | jq -r .server_pid; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
drop_caches() { echo 3 >/proc/sys/vm/drop_caches; }
on_volume() { echo "$pm/${1#"$nfs/"}"; } # on_volume FOLDER: where the volume has it

# --- the server of pmfs

make_volume() {
    echo ".timeout 100000" >/tmp/transactions
    yes "begin immediate; update counter set n = n + 1; commit;" | head -n $rounds >>/tmp/transactions
    mkdir -p $pm $nfs
    check "mkfs.pmfs" mkfs.pmfs -q --sparse --size 512M $region
    check "mount -t pmfs" start_pmfs
}
start_pmfs() { mount -t pmfs ${1:+-o "$1"} $region $pm; }
stop_pmfs() {
    server=$(server_of)
    umount $pm && wait_for 20 is_gone "$server"
}

# --- real programs

a_tree() { # FOLDER
    check "$version: a tree is copied in" cp -a $tree /modules.d "$1/" || return
    drop_caches
    check "$version: and read back" diff -r $tree "$1/bits"
    check "$version: the volume has it" diff -r /modules.d "$(on_volume "$1")/modules.d"
    check "$version: $names names" names "$1/names"
    drop_caches
    check "$version: are listed, each once" same "$(listed "$1/names" | sort -u | wc -l) $(listed "$1/names" | wc -l)" "$names $names"
    check "$version: all of that is removed" rm -r "$1/names" "$1/bits" "$1/modules.d"
    check "$version: an open file without a name" sh -c "exec 5>$1/open 6<$1/open && rm $1/open && echo x >&5 && read -r line <&6 && [ \$line = x ]"
}
listed() { find "$1" -mindepth 1; }
names() {
    mkdir "$1"
    number=0
    while [ $number -lt $names ]; do
        : >"$1/some-name-$number" || return
        number=$((number + 1))
    done
}

a_repository() { # FOLDER
    git init -q --template= "$1" && cd "$1" || return 1
    for number in 1 2 3 4 5 6 7 8; do
        head -c 30000 /dev/urandom >file-$number
    done
    git add . && git commit -q -m "eight files" && cd /
}

real_programs() { # FOLDER
    check "$version: git makes a repository" a_repository "$1/repository"
    check "$version: git clones it" git clone -q --template= --no-local "$1/repository" "$1/clone"
    check "$version: git finds nothing wrong in the clone" git -C "$1/clone" fsck --full
    mkdir "$1/project" && cp /project/* "$1/project/"
    check "$version: make and a C compiler build a project" make -s -C "$1/project" -f project.mk
    check "$version: what they built does what it should" same "$("$1/project/units")" 820
    check "$version: then there is nothing to do" make -q -C "$1/project" -f project.mk
}

# --- locks

make_database() { sqlite3 "$1" "create table counter(n); insert into counter values(0)"; }
transactions() { # DATABASE
    sqlite3 -bail -init /tmp/transactions "$1" .quit
}
counted_by() { # DATABASE...: of each path one program
    pids=
    for database; do
        transactions "$database" &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid" || return; done
    same "$(sqlite3 "$1" "pragma integrity_check; select n from counter")" "ok
$((rounds * $#))"
}

taken() { # FILE: by another open file
    flock -n -E 9 "$1" true
    same $? 9
}
held_lock() { # FILE COMMAND...: while somebody has FILE locked
    rm -f /tmp/held /tmp/release
    flock "$1" sh -c "touch /tmp/held; until [ -e /tmp/release ]; do usleep 50000; done" &
    holder=$!
    shift
    wait_for 20 test -e /tmp/held && "$@"
    held_result=$?
    touch /tmp/release
    wait $holder
    return $held_result
}
waits_for() { # FILE: who waits gets it when the holder lets go
    rm -f /tmp/got
    flock "$1" touch /tmp/got &
    waiter=$!
    sleep 1
    [ ! -e /tmp/got ] || echo "it did not wait"
    touch /tmp/release
    wait_for 60 test -e /tmp/got && wait $waiter
}

holding() { # DATABASE COMMAND...: while SQLite has it locked
    rm -f /tmp/held /tmp/release
    (
        printf 'begin exclusive;\n.system touch /tmp/held\n'
        until [ -e /tmp/release ]; do usleep 50000; done
    ) | sqlite3 "$1" &
    holder=$!
    shift
    wait_for 20 test -e /tmp/held && "$@"
    held_result=$?
    touch /tmp/release
    wait $holder
    return $held_result
}

locks() { # FOLDER
    make_database "$1/db"
    check "$version: SQLite in two programs" counted_by "$1/db" "$1/db"
    : >"$1/lock"
    check "$version: a lock keeps another away" held_lock "$1/lock" taken "$1/lock"
    check "$version: flock(1) on the volume itself does not see it" held_lock "$1/lock" flock -n "$(on_volume "$1")/lock" true
    check "$version: who waits for it gets it" held_lock "$1/lock" waits_for "$1/lock"
}
locks_of_both() { # FOLDER
    make_database "$1/shared"
    check "$version: SQLite over NFS and on the volume itself" counted_by "$1/shared" "$(on_volume "$1")/shared"
}

# --- servers that end

appender() { # FILE: a line each tenth of a second, until /tmp/stop; ends badly when a write fails
    exec 7>>"$1"
    number=0
    until [ -e /tmp/stop ]; do
        number=$((number + 1))
        echo "line $number" >&7 || exit
        sync "$1" || exit
        echo $number >/tmp/appended
        usleep 100000
    done
}
enough() { [ "$(cat /tmp/appended)" -ge "$1" ]; }

restarted() { # FOLDER KIND: with a program that has a file open, a directory, and a lock
    rm -f /tmp/stop /tmp/appended
    echo 0 >/tmp/appended
    seq 1 20000 >"$1/numbers"
    appender "$1/lines" &
    writer=$!
    exec 8<"$1/numbers"
    head -n 1 <&8 >/dev/null
    flock "$1/lock" sh -c 'touch /tmp/locked; until [ -e /tmp/stop ]; do usleep 100000; done' &
    locker=$!
    wait_for 20 enough 3
    cd "$1" || return
    if [ "$2" = stopped ]; then
        check "$version: NFS and then pmfs stop" sh_stop
    else
        check "$version: pmfs is killed, NFS stops, the dead mount goes" sh_kill
    fi
    appended=$(cat /tmp/appended)
    check "$version, $2: pmfs starts again" start_pmfs
    check "$version, $2: NFS starts again" start_nfs
    drop_caches
    check "$version, $2: the directory that somebody is in" same "$(ls -d lines)" lines
    check "$version, $2: the file that is open reads on" sh -c "tail -n 1 <&8 | grep -qx 20000"
    if [ "$2" = stopped ]; then
        check "$version, $2: who writes goes on" wait_for 60 enough $((appended + 3))
        case $version in 4*) check "$version, $2: the lock is still held" taken "$1/lock" ;; esac
        touch /tmp/stop
        check "$version, $2: without an error" wait $writer
        check "$version, $2: and every line is there" same "$(grep -c . "$(on_volume "$1")/lines")" "$(cat /tmp/appended)"
    else
        touch /tmp/stop
        wait $writer
        info "$version, $2: the program that wrote meanwhile ended with $?"
        check "$version, $2: every line that was synced is there" test "$(grep -c . "$(on_volume "$1")/lines")" -ge "$appended"
    fi
    wait $locker
    exec 8<&-
    cd /
    rm -f lines
}
sh_stop() { stop_nfs && stop_pmfs; }
sh_kill() {
    kill -9 "$(server_of)" && sleep 0.5
    stop_nfs
    umount -l $pm
}

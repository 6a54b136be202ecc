#!/bin/sh
# A guest that shares files with another guest (rig_role=1 or 2) and with the host, under locks that the
# server keeps (part_locks.py).
. /lib/rig.sh
mnt=/mnt/pmfs
mkdir -p $mnt
stty -echo </dev/console

transactions() {
    echo ".timeout 60000"
    round=0
    while [ $round -lt "$rig_transactions" ]; do
        echo "begin immediate; update counter set n = n + 1;
            insert into log select n, 'guest-$rig_role' from counter; commit;"
        round=$((round + 1))
    done
}

counted_under_flock() {
    cd $mnt || return
    round=0
    while [ $round -lt "$rig_rounds" ]; do
        # shellcheck disable=SC2016
        flock lock sh -c 'read -r n <counter && echo $((n + 1)) >counter' || return
        round=$((round + 1))
    done
    cd /
}

hold_until_killed() {
    flock $mnt/held sh -c "touch /tmp/held; sleep 1000" &
    check "(it holds a lock)" wait_for 20 test -e /tmp/held
    check "(it says so)" ask holding
    echo "HELD"
    sleep 1000
}

wait_for_the_other() {
    check "(the other guest holds a lock)" ask held
    check "what the other guest holds it cannot have" same "$(flock -n -E 9 $mnt/held true; echo $?)" 9
    check "a shared one neither" same "$(flock -n -s -E 9 $mnt/held true; echo $?)" 9
    flock $mnt/held touch /tmp/got &
    waiter=$!
    sleep 0.3
    check "who waits for it waits" test ! -e /tmp/got
    check "and meanwhile others work" file_calls locks $mnt/beside
    check "(the other guest is killed)" ask kill_the_other
    check "when its holder is killed the next one has the lock" wait $waiter
    check "umount" umount $mnt
}

check "mount -t virtiofs" mount -t virtiofs pmfs $mnt
transactions >/tmp/transactions
check "(both guests are there)" ask meet
check "SQLite: $rig_transactions transactions beside others" sqlite3 -bail -init /tmp/transactions $mnt/database .quit
check "flock: $rig_rounds times a counter beside others" counted_under_flock
if [ "$rig_role" = 2 ]; then hold_until_killed; else wait_for_the_other; fi
check "no complaint of the kernel" quiet_kernel

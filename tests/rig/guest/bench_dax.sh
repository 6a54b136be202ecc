#!/bin/sh
# Three namespaces of one size, with pmfs, ext4 and XFS on them, for tools/bench dax.
. /lib/rig.sh
mkdir -p /mnt/pmfs /mnt/ext4 /mnt/xfs

namespace() { # NUMBER MODE
    check "namespace$1.0: $2" ndctl create-namespace --mode="$2" --force --reconfig="namespace$1.0"
}

namespace 0 devdax && namespace 1 fsdax && namespace 2 fsdax || exit
check "the nodes appear" wait_for 10 test -c /dev/dax0.0 -a -b /dev/pmem1 -a -b /dev/pmem2
check "pmfs" mkfs.pmfs -q /dev/dax0.0
check "pmfs: mount" mount.pmfs /dev/dax0.0 /mnt/pmfs
check "ext4" mkfs.ext4 -q -b 4096 /dev/pmem1
check "ext4: mount" mount -t ext4 -o dax=always /dev/pmem1 /mnt/ext4
check "xfs" mkfs.xfs -q -f -m reflink=0 /dev/pmem2
check "xfs: mount" mount -t xfs -o dax=always /dev/pmem2 /mnt/xfs
bench_dax pmfs=/mnt/pmfs ext4=/mnt/ext4 xfs=/mnt/xfs || fail "bench_dax" "exit code $?"

#!/bin/sh
# A guest that has a file of this machine as virtio-pmem, with an ext4 image in it.  rig_role=1: attacks,
# and ends; 2: is killed.  `ask` has the host look (part_pmem.py).
. /lib/rig.sh
mnt=/mnt/image
mkdir -p $mnt
stty -echo </dev/console

cached() { sed -n 's/^Cached: *\([0-9]*\) kB/\1/p' /proc/meminfo; }
digests() { (cd $mnt && md5sum -c sums); }
# The same image, in two devices.
join() {
    first=$(cat /sys/block/pmem1/size) second=$(cat /sys/block/pmem2/size)
    printf '0 %s linear /dev/pmem1 0\n%s %s linear /dev/pmem2 0\n' "$first" "$first" "$second" |
        dmsetup create --noudevsync joined # (no udevd: /dev/dm-0 is its only name)
}
joined() {
    check "the device mapper joins an image in two pieces" join || return
    check "the joined device has DAX" same "$(cat /sys/block/dm-0/queue/dax)" 1
    umount $mnt
    check "mount -o ro,dax=always of both pieces" mount -t ext4 -o ro,dax=always /dev/dm-0 $mnt
    check "and the kernel took that" grep -q " $mnt ext4 ro.*dax=always" /proc/mounts
    before=$(cached)
    check "the joined files have the host's digests" digests
    check "and no copy in the page cache, either" test $(($(cached) - before)) -lt 4096
    umount $mnt
    check "(the image in one piece again)" mount -t ext4 -o ro,dax=always /dev/pmem0 $mnt
}

# Whatever these say: the host looks at its bytes afterwards.
attack() {
    dd if=/dev/urandom of=/dev/pmem0 bs=4096 count=2000 seek=10 conv=fsync,notrunc
    dd if=/dev/zero of=/dev/pmem0 bs=1048576 count=1 seek=30 oflag=direct
    mount -o remount,rw $mnt && cp /usr/bin/busybox $mnt/new && rm -f $mnt/file-0
    file_calls store $mnt/file-1 8 7
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

check "there is a device" wait_for 10 test -b /dev/pmem0
check "it has DAX" same "$(cat /sys/block/pmem0/queue/dax)" 1
check "its length is the file's, in whole 2 MiB" same "$(cat /sys/block/pmem0/size)" $((34 << 11))
check "mount -o ro,dax=always" mount -t ext4 -o ro,dax=always /dev/pmem0 $mnt
check "and the kernel took it" grep -q " $mnt ext4 ro.*dax=always" /proc/mounts
before=$(cached)
check "its files have the host's digests" digests
grown=$(($(cached) - before))
info "$grown KiB more in the page cache after 24 MiB were read"
check "and no copy in the page cache" test $grown -lt 4096
[ "$rig_role" = 1 ] || joined
check "no complaint of the kernel" quiet_kernel
check "both guests are there" ask meet
if [ "$rig_role" = 1 ]; then
    attack >/tmp/attack 2>&1
    info "the attack: $(grep -cE "records out|copied" /tmp/attack) times dd said that it wrote"
    check "whatever was tried: the host's bytes stay" ask unharmed
    check "the host sees who holds the file, and does not unseal it" ask held
    info "$answer"
    check "the other guest may look" ask meet
else
    check "the other guest has attacked" ask meet
    echo 3 >/proc/sys/vm/drop_caches
    check "the files have the same digests still" digests
    echo READY
    sleep 1000
fi

#!/bin/sh
# The inner guest of part C: maps a file of the outer one.  rig_sum=: the file's digest.
. /lib/rig.sh
tracing=/sys/kernel/tracing
check "inside: mount -o dax=inode" mount -t virtiofs -o dax=inode pmfs /mnt || exit
mount -t tracefs trace $tracing
echo 1 >$tracing/events/fuse/fuse_request_send/enable
check "inside: the file has its digest" same "$(md5sum </mnt/file | cut -d' ' -f1)" "$rig_sum"
check "inside: a store" file_calls poke /mnt/file 4096 word-of-the-innermost
check "inside: and a load" file_calls peek /mnt/file 4096 word-of-the-innermost
check "inside: no byte went by a request" same "$(grep -cE "FUSE_(READ|WRITE)\)" $tracing/trace)" 0
check "inside: ranges were mapped" test "$(grep -c FUSE_SETUPMAPPING $tracing/trace)" -ge 4
check "inside: umount" umount /mnt
check "inside: no complaint of the kernel" quiet_kernel

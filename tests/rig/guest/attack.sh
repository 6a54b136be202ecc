#!/bin/sh
# A guest whose root is not to be trusted: it has a directory of the volume with a DAX window, and another
# one read-only, by requests.  It stores into all of the window (attack.py).
. /lib/rig.sh
mkdir -p /mnt/own /mnt/plain
stty -echo </dev/console

# The window is the only resource of that size.
window=
for resource in /sys/bus/pci/devices/*/resource[0-9]; do
    [ "$(stat -c %s "$resource")" != $((64 << 20)) ] || window=$resource
done

check "it has a window" test -n "$window" || exit
check "mount of what it may read, without a window" mount -t virtiofs plain /mnt/plain || exit
check "mount of its own, dax=always" mount -t virtiofs -o dax=always pmfs /mnt/own || exit
check "it reads what it may not write" ask md5 other/file
check "as it is" same "$(md5sum </mnt/plain/file)" "$answer  -"
refuse "it does not write it" "Read-only file system" dd if=/dev/zero of=/mnt/plain/file bs=1 count=1 conv=notrunc
refuse "it does not map it" "can't be enabled" sh -c "umount /mnt/plain; mount -t virtiofs -o dax=always plain /mnt/plain || dmesg | grep enabled >&2; false"
file_calls hold /mnt/own/own &
check "its own file is mapped, all of it" wait_for 20 test -e /tmp/holding
took=$(window_attack "$window" ATTACK-1)
check "stores past the filesystem arrive where something is mapped" test "$took" -ge 2048
info "$took pages of $window took what was stored"
check "they are in its own file" ask reads tenant/own 4096 ATTACK-1
check "and nowhere else" ask untouched
touch /tmp/release
wait
check "umount" umount /mnt/own
check "after that nothing is mapped" same "$(window_attack "$window" ATTACK-2)" 0
check "its own file has nothing of that" ask reads tenant/own 4096 ATTACK-1
check "nor has any other" ask untouched
check "no complaint of the kernel" quiet_kernel

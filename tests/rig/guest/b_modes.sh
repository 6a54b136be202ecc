#!/bin/sh
# What almost is a device-DAX node for pmfs: each time one sentence, with the command that mends it; the
# command is then run as it was said, by us.  One NVDIMM of 2 GiB and some.
. /lib/rig.sh
device=/dev/dax0.0
reconfigure="ndctl create-namespace --mode=devdax --align=2M --force --reconfig=namespace0.0"

one_sentence() { # one_sentence "words" TEXT COMMAND...: refused with TEXT, in one line
    refuse "$@"
    cp /tmp/said /tmp/sentence
    check "$1, in one line" same "$(grep -c . /tmp/sentence)" 1
}
# The command at the end of what was said, before a remark in "( )".
said_command() { sed -n 's/.*: \(\(ndctl\|daxctl\) [^(]*[^( ]\).*/\1/p' /tmp/sentence; }
mend() { # mend "words": runs the command that was said
    command=$(said_command)
    info "$1: $command"
    [ -n "$command" ] || fail "$1: says what to run" "$(cat /tmp/sentence)"
    check "$1: what it says to run works" sh -c "$command"
    check "$1: and gives a node" wait_for 10 test -c $device
    check "$1: on which a volume can be made" mkfs.pmfs -f -q $device
}

mkdir -p /mnt
one_sentence "mkfs.pmfs on a node that is not there" "there is no such device-DAX node" \
    mkfs.pmfs --size 1G $device
check "and makes no file of that name" test ! -e $device
one_sentence "mount.pmfs on a node that is not there" "there is no such device-DAX node" mount.pmfs $device /mnt
one_sentence "fsck.pmfs on a node that is not there" "there is no such device-DAX node" fsck.pmfs $device

one_sentence "a namespace in raw mode" "a namespace in raw mode, but pmfs needs device-DAX: $reconfigure" \
    mkfs.pmfs /dev/pmem0
mend "a namespace in raw mode"

for mode in fsdax sector; do
    ndctl create-namespace --mode=$mode --force --reconfig=namespace0.0 >/dev/null || fail "$mode" "ndctl"
    for program in mkfs.pmfs fsck.pmfs "mount.pmfs"; do
        # shellcheck disable=SC2046
        one_sentence "$program on a namespace in $mode mode" "in $mode mode, but pmfs needs device-DAX: $reconfigure" \
            $program /dev/pmem0* $([ $program != mount.pmfs ] || echo /mnt)
    done
    mend "a namespace in $mode mode"
done

# The memory is not brought online: there is too little of it to give it back reliably.
echo offline >/sys/devices/system/memory/auto_online_blocks
check "(as system RAM)" daxctl reconfigure-device --mode=system-ram --no-online dax0.0
one_sentence "a namespace in system-ram mode" \
    "in use as system RAM, but pmfs needs device-DAX: daxctl reconfigure-device --mode=devdax --force dax0.0" \
    mount.pmfs $device /mnt
refuse "mkfs.pmfs on it" "in use as system RAM" mkfs.pmfs $device
mend "a namespace in system-ram mode"

check "(disabled)" daxctl disable-device dax0.0
one_sentence "a disabled device" "is disabled: daxctl enable-device dax0.0" mkfs.pmfs $device
mend "a disabled device"

check "(aligned to 1 GiB)" ndctl create-namespace --mode=devdax --align=1G --force --reconfig=namespace0.0
one_sentence "an alignment of 1 GiB" "is aligned to 1 GiB, but pmfs requires 4 KiB or 2 MiB: $reconfigure" \
    mkfs.pmfs $device
mend "an alignment of 1 GiB"

refuse "a mapping unit smaller than the device's" "the mapping unit must not be smaller than the device's page size" \
    mkfs.pmfs -f --mapping-unit 4K $device
check "(aligned to 4 KiB)" ndctl create-namespace --mode=devdax --align=4K --force --reconfig=namespace0.0
check "(a volume with units of 4 KiB)" mkfs.pmfs -f -q $device
check "(aligned to 2 MiB again)" sh -c "$reconfigure"
one_sentence "a volume with units of 4 KiB on a device with pages of 2 MiB" \
    "mapping unit of 4 KiB, but is now on a medium with pages of 2 MiB" mount.pmfs $device /mnt
check "it can be mounted read-only" mount.pmfs -o ro $device /mnt
umount /mnt
command=$(said_command)
check "what it says to run works" sh -c "$command"
check "and the volume is there again" mount.pmfs $device /mnt

# The device goes under the mount: what is lost is an error, the server lives, and nothing that had
# returned is gone when the device comes back.
head -c 8000000 /dev/urandom >/tmp/original
check "a file" cp /tmp/original /mnt/file
server=$(pmfsctl status --json /mnt | jq .server_pid)
is_gone() { ! kill -0 "$server" 2>/dev/null; }
check "(the device is disabled under the mount)" daxctl disable-device dax0.0
refuse "without its device: reading fails" "" cmp /tmp/original /mnt/file
refuse "without its device: making a file fails" "" touch /mnt/other
check "without its device: the server lives" kill -0 "$server"
check "without its device: umount" umount /mnt
check "without its device: the server ends" wait_for 20 is_gone
check "(the device is enabled)" daxctl enable-device dax0.0
check "fsck.pmfs" fsck.pmfs $device
check "and mount" mount.pmfs $device /mnt
check "the file is there" cmp /tmp/original /mnt/file
umount /mnt
check "no complaint of the kernel" quiet_kernel

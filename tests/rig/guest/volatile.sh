# shellcheck shell=sh
# Sourced by installed.sh: the boot service of docs/devdax.md for memory that has lost its content, as it is printed
# there, on memory that memmap= set aside.

# memmap= gave it the region of this number.
number() { ndctl list --bus=e820 -R | sed -n 's/.*"dev":"region\([0-9]*\)".*/\1/p'; }
document() { zcat -f /usr/share/doc/pmfs/devdax.md* | sed -n "$1"; }
renumber() { sed "s/dax0\.0/dax$volatile.0/; s/namespace0\.0/namespace$volatile.0/"; }
service=/etc/systemd/system/pmfs-dax.service

write_service() { # write_service daxctl|ndctl
    document '/^    # \/etc\/systemd\/system\/pmfs-dax.service/,/^$/s/^    //p' >/rig/service
    if [ "$1" = ndctl ]; then
        document 's/^    \(ExecStart=.*--bus=e820.*\)/\1/p' >/rig/line
        sed -i -e '/^ExecStart=.*daxctl/{r /rig/line' -e 'd}' /rig/service
    fi
    renumber </rig/service >$service
    [ "$(grep -c ^ExecStart= $service)" = 2 ] && grep -q "$1" $service && systemctl daemon-reload
}

# Memory that was in use has bytes other than zeroes; what there is of the namespace goes, too.
lose_content() {
    systemctl stop pm.mount pmfs-dax && ndctl disable-namespace "namespace$volatile.0" &&
        ndctl destroy-namespace -f "namespace$volatile.0" && udevadm settle
}

volatile_for_next_boot() {
    volatile=$(number)
    check "memmap= gives a region of its own" same "$volatile" 1 || return
    echo "/dev/dax$volatile.0 /pm pmfs nofail,x-systemd.device-timeout=10min,seal=owner 0 0" >>/etc/fstab
    mkdir -p /pm
    check "the boot service of the document, for memmap=" write_service ndctl
    check "it is enabled as the document says" systemctl enable pmfs-dax
    check "it makes a volume, and fstab's line mounts it" systemctl start pm.mount
    check "which can be used" sh -c "echo lost >/pm/file"
}

volatile_after_reboot() {
    volatile=$(number)
    check "after a reboot there is another volume in volatile memory" wait_for 60 is_mounted /pm
    check "which is empty" same "$(ls /pm)" ""
    check "and can be used" sh -c "echo again >/pm/file"
    check "its service has run" same "$(systemctl show --property=Result --value pmfs-dax)" success
    check "a service for a mounted volume is not started again" systemctl start pmfs-dax
    check "so its file stays" same "$(cat /pm/file)" again

    check "it has lost its content" systemctl stop pm.mount pmfs-dax
    echo offline >/sys/devices/system/memory/auto_online_blocks
    check "and is system RAM" daxctl reconfigure-device --mode=system-ram --no-online "dax$volatile.0"
    check "the boot service of the document, for other volatile memory" write_service daxctl
    check "it makes a volume there, too" systemctl start pm.mount
    check "which is empty, too" same "$(ls /pm)" ""
    check "systemctl stop, volatile" systemctl stop pm.mount pmfs-dax
    check "a start when the device is in the right mode already" systemctl start pmfs-dax
}

# The number is one of persistent memory now.
persistent_stays() { # persistent_stays LABEL
    device=$(pmfsctl_label "$1")
    check "(the volume $1 is on $device)" fsck.pmfs -n "$device"
    systemctl stop pm.mount pmfs-dax
    for kind in daxctl ndctl; do
        write_service $kind
        sed -i "s/dax$volatile\.0/${device#/dev/}/; s/namespace$volatile\.0/namespace${device#/dev/dax}/" $service
        systemctl daemon-reload
        refuse "the boot service ($kind) refuses persistent memory" failed systemctl start pmfs-dax
        info "$(journalctl -b -u pmfs-dax -o cat --no-pager | grep -E 'volatile|failed to' | tail -n 1)"
        check "and the volume there is whole ($kind)" fsck.pmfs -n "label:$1"
    done
}

pmfsctl_label() { readlink -f "/dev/pmfs/by-label/$1"; }

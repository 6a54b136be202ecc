#!/bin/sh
# A bare Debian 12 that systemd has booted: installs the packages in /packages with dpkg, and uses what they bring
# under its systemd and its udevd, on device-DAX namespaces and on volatile memory.  Then it reboots, and looks at what comes up by itself.
usleep() { sleep 0.05; }
. /rig/rig.sh
. /rig/unlucky.sh
. /rig/volatile.sh
cd /rig || exit
unit=pmfs@rig.service
mnt=/srv/pmfs/rig

property() { systemctl show --property="$1" --value $unit; }
is_mounted() { mountpoint -q "$1"; }
not_mounted() { ! mountpoint -q "$1"; }
leads_to() { same "$(readlink -f "/dev/pmfs/$1")" "$2"; }
says() { journalctl -b --no-pager | grep -qF "$1"; }

make_namespaces() {
    ndctl disable-region region0 && ndctl init-labels --force nmem0 && ndctl enable-region region0 &&
        ndctl create-namespace --region=region0 --mode=devdax --align=2M --size=112M &&
        ndctl create-namespace --region=region0 --mode=devdax --align=2M --size=112M && udevadm settle
}

install_packages() {
    check "udevd has loaded the modules" wait_for 20 test -d /sys/bus/nd/devices/region0 || return
    check "two device-DAX namespaces" make_namespaces || return
    check "without the packages only root may open them" same "$(stat -c '%G %a' /dev/dax0.1)" "root 600"
    check "dpkg installs the packages" sh -c "rm -f /packages/*-dbgsym_*; dpkg -i /packages/*.deb" || return
    check "libpmfs.so.1 is found" sh -c "ldconfig -p | grep -q libpmfs.so.1"
    check "udevd settles" udevadm settle
    check "then the group dax may, without a reboot" same "$(stat -c '%G %a' /dev/dax0.1)" "dax 660"
    check "and nobody is in that group" same "$(getent group dax | cut -d: -f4)" ""
    return 0
}

names() {
    first=11111111-2222-4333-8444-555555555555
    check "mkfs.pmfs, with a space in the label" mkfs.pmfs -q -L "rig one" -U $first /dev/dax0.0
    check "mkfs.pmfs on the other" mkfs.pmfs -q -L rig /dev/dax0.1
    check "a link by label" wait_for 10 leads_to by-label/rig /dev/dax0.1
    check "a link by label with a space" leads_to 'by-label/rig\x20one' /dev/dax0.0
    check "a link by UUID" leads_to by-uuid/$first /dev/dax0.0
    mkdir -p /pm
    check "mount -t pmfs label:NAME" mount -t pmfs label:rig /pm
    check "it is the device of that label" same "$(findmnt -no SOURCE /pm)" /dev/dax0.1
    check "the journal has what a server in the background says" wait_for 10 says "/dev/dax0.1 is mounted on /pm"
    check "a file is written" sh -c "echo kept >/pm/file"
    check "umount" umount /pm
    check "mount -t pmfs uuid:UUID" mount -t pmfs uuid:$first /pm
    check "it is the device of that UUID" same "$(findmnt -no SOURCE /pm)" /dev/dax0.0
    check "umount again" umount /pm
    check "mount -t pmfs label:, with a space" mount -t pmfs "label:rig one" /pm
    check "umount, with a space" umount /pm
    check "pmfsctl doctor finds nothing wrong" pmfsctl doctor /dev/dax0.0
}

is_up_again() { [ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$1" ] && is_mounted $mnt; }

service() {
    check "systemctl start pmfs@rig" systemctl start $unit
    check "when it returns the server has said that it is ready" same "$(property Type) $(property SubState)" "notify running"
    check "and the volume is mounted" same "$(cat $mnt/file)" kept
    server=$(property MainPID)
    check "the server is spared when memory is short" same "$(cat "/proc/$server/oom_score_adj")" -1000
    check "it gets no new privileges" grep -q "^NoNewPrivs:[[:space:]]*1$" "/proc/$server/status"
    check "its system calls are filtered" grep -q "^Seccomp:[[:space:]]*2$" "/proc/$server/status"
    check "it may lock all memory" grep -q "^Max locked memory *unlimited *unlimited" "/proc/$server/limits"
    info "$(systemd-analyze security $unit 2>/dev/null | tail -n 1 | tr -cd ' -~')"
    [ "$server" -gt 1 ] || return
    check "it is killed" kill -9 "$server"
    check "systemd starts it again" wait_for 30 is_up_again "$server"
    check "and what was written is there" same "$(cat $mnt/file)" kept
    check "systemctl restart" systemctl restart $unit
    check "and it is there" same "$(cat $mnt/file)" kept
    mkdir -p /etc/pmfs
    printf 'SOURCE=label:rig\nDIRECTORY=/pm\nOPTIONS=ro\n' >/etc/pmfs/rig.conf
    check "with /etc/pmfs/rig.conf" systemctl restart $unit
    check "it is mounted where that says" same "$(cat /pm/file)" kept
    refuse "as that says" "Read-only file system" touch /pm/new
    check "and nowhere else" not_mounted $mnt
    rm /etc/pmfs/rig.conf
    check "systemctl stop" systemctl stop $unit
    check "nothing is mounted then" not_mounted /pm
    check "and fsck.pmfs finds nothing" fsck.pmfs -n label:rig
    refuse "a label that no volume has is no start" "failed" systemctl start pmfs@nobody
    check "and the journal says why" sh -c "journalctl -u pmfs@nobody | grep -q 'no volume has the label nobody'"
    systemctl stop pmfs@nobody
}

renumbered() {
    check "the first namespace goes" sh -c "ndctl disable-namespace namespace0.0 && ndctl destroy-namespace namespace0.0"
    check "and the region is found anew" sh -c "ndctl disable-region region0 && ndctl enable-region region0 && udevadm settle"
    check "the other one has its number now" leads_to by-label/rig /dev/dax0.0
    check "and no link of the first is left" test ! -e '/dev/pmfs/by-label/rig\x20one'
    check "label:NAME finds it" mount -t pmfs label:rig /pm
    check "with its file" same "$(cat /pm/file)" kept
    check "umount, renumbered" umount /pm
}

for_next_boot() {
    check "another namespace" sh -c "ndctl create-namespace --region=region0 --mode=devdax --align=2M --size=96M && udevadm settle"
    other=$(find /dev -name 'dax0.*' ! -name dax0.0)
    check "with a volume" mkfs.pmfs -q -f -L fstab "$other"
    # (A guest on a busy machine takes longer than the minute and a half that systemd waits for a device.)
    echo "/dev/pmfs/by-label/fstab /kept pmfs nofail,x-systemd.device-timeout=10min,seal=owner 0 0" >>/etc/fstab
    mkdir -p /kept
    check "systemctl enable" systemctl enable $unit
    check "a link, for the next boot" wait_for 10 leads_to by-label/fstab "$other"
    check "systemd mounts a line of fstab" sh -c "systemctl daemon-reload && systemctl start kept.mount && echo kept >/kept/file"
    check "systemctl start again" systemctl start $unit
}

after_reboot() {
    check "after a reboot the unit serves by itself" same "$(property ActiveState) $(cat $mnt/file)" "active kept"
    # (nofail: nothing waits for it.)
    check "and fstab's volume is mounted" wait_for 60 is_mounted /kept
    check "with its file, after the reboot" same "$(cat /kept/file)" kept
    info "$(systemctl show --property=NRestarts $unit); up after $(cut -d' ' -f1 /proc/uptime) s"
    volatile_after_reboot
    check "systemctl stop, then" systemctl stop $unit kept.mount
    persistent_stays rig
    check "fsck.pmfs finds nothing in the one" fsck.pmfs -n label:rig
    check "nor in the other" fsck.pmfs -n label:fstab
    check "the packages are purged" dpkg -P pmfs libpmfs-dev libpmfs1
    check "and leave no unit" test ! -e "/lib/systemd/system/pmfs@.service"
    check "nor what enabled one" same "$(find /etc/systemd /var/lib/systemd -name 'pmfs@*')" ""
}

if [ ! -e /rig/rebooted ]; then
    echo "rig: up after $(cut -d' ' -f1 /proc/uptime) s"
    if install_packages; then
        names
        service
        hard_labels
        check "systemctl start, once more" systemctl start $unit
        two_units
        stopped_in_use
        late_device namespace0.1
        upgraded
        check "systemctl stop, once more" systemctl stop $unit
        renumbered
        for_next_boot
        volatile_for_next_boot
    fi
    check "no complaint of the kernel" quiet_kernel
    touch /rig/rebooted
    echo "rig: end after $(cut -d' ' -f1 /proc/uptime) s"
    systemctl --no-block reboot 2>/dev/null
else
    after_reboot
    check "no complaint of the kernel after the reboot" quiet_kernel
    echo "rig: end after $(cut -d' ' -f1 /proc/uptime) s"
    systemctl --no-block poweroff 2>/dev/null
fi

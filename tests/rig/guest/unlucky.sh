# shellcheck shell=sh
# Sourced by installed.sh: labels and units of an administrator who is unlucky, or in a hurry.

links() { # links NUMBER
    udevadm settle && find /dev/pmfs -type l && [ "$(find /dev/pmfs -type l | wc -l)" = "$1" ]
}

hard_labels() {
    check "mkfs.pmfs, with a label that a shell could read" mkfs.pmfs -q -f -L 'a/../b $(touch /x)";&' /dev/dax0.0
    check "has a link without a request" wait_for 10 leads_to 'by-label/a\x2f..\x2fb\x20\x24\x28touch\x20\x2fx\x29\x22\x3b\x26' /dev/dax0.0
    check "and no other" links 4
    check "and nothing is run" test ! -e /x
    check "mkfs.pmfs, with a label that is too long for a link" mkfs.pmfs -q -f -L "$(printf '%64s' '')" -U "$first" /dev/dax0.0
    check "has a link by UUID, too long" wait_for 10 leads_to "by-uuid/$first" /dev/dax0.0
    check "and no link by label" links 3
    check "mkfs.pmfs, with the label of the other volume" mkfs.pmfs -q -f -L rig -U "$first" /dev/dax0.0
    udevadm settle
    check "has a link by UUID" wait_for 10 leads_to "by-uuid/$first" /dev/dax0.0
    refuse "one label for two volumes is no mount" "both /dev/dax0.0 and /dev/dax0.1 have the label rig" mount -t pmfs label:rig /pm
    refuse "and no start of a unit" "failed" systemctl start $unit
    check "the journal says why, two labels" sh -c "journalctl -b -u $unit | grep -q 'both /dev/dax0.0 and /dev/dax0.1 have the label rig'"
    systemctl stop $unit
    check "mkfs.pmfs, with its old label" mkfs.pmfs -q -f -L "rig one" -U "$first" /dev/dax0.0
    check "the link is that of the other one" wait_for 10 leads_to by-label/rig /dev/dax0.1
    check "and there is its own" wait_for 10 leads_to 'by-label/rig\x20one' /dev/dax0.0
}

stays() { [ "$(property MainPID)" = "$1" ] && is_mounted $mnt && [ "$(cat $mnt/file)" = kept ]; }

two_units() {
    server=$(property MainPID)
    printf 'SOURCE=/dev/dax0.1\nDIRECTORY=%s\n' $mnt >/etc/pmfs/second.conf
    refuse "a second unit for the same device and directory is no start" "failed" systemctl start pmfs@second
    check "the journal says why, second unit" sh -c "journalctl -b -u pmfs@second | grep -qF 'is mounted or being checked by another process (pid $server)'"
    check "the first one still serves" stays "$server"
    systemctl stop pmfs@second
    printf 'SOURCE=/dev/dax0.1\nOPTIONS=nonsense\n' >/etc/pmfs/second.conf
    refuse "a wrong option is no start" "failed" systemctl start pmfs@second
    sleep 3
    check "and is not tried again" same "$(systemctl show --property=NRestarts,ActiveState --value pmfs@second | tr '\n' ' ')" "0 failed "
    rm /etc/pmfs/second.conf
    check "a label with a space is the name of a unit" systemctl start 'pmfs@rig\x20one'
    check "which serves it" is_mounted '/srv/pmfs/rig\x20one'
    check "and stops" systemctl stop 'pmfs@rig\x20one'
}

# Its working directory and a file are on the mount.
user_of_mount() { (cd $mnt && exec 3<file && exec sleep 1000) >/dev/null 2>&1 & }

stopped_in_use() {
    user_of_mount
    user=$!
    wait_for 10 test "/proc/$user/cwd" -ef $mnt
    check "systemctl stop while a program is in the mount" systemctl stop $unit
    check "nothing is mounted, in use" not_mounted $mnt
    check "the unit has not failed" same "$(property ActiveState) $(property Result)" "inactive success"
    refuse "the program gets an error" "not connected" ls "/proc/$user/cwd/"
    kill $user
    check "fsck.pmfs finds nothing, in use" fsck.pmfs -n label:rig
    check "mounted by hand" mount -t pmfs label:rig $mnt
    refuse "the unit does not start over that" "failed" systemctl start $unit
    check "and leaves that mount" same "$(cat $mnt/file)" kept
    systemctl stop $unit
    umount $mnt
}

late_device() {
    check "the device goes" ndctl disable-namespace "$1"
    refuse "a unit without its device is no start" "failed" systemctl start $unit
    sleep 3
    check "the device is late" ndctl enable-namespace "$1"
    check "and the unit serves it" wait_for 30 is_up_again 0
    check "with its file, late" same "$(cat $mnt/file)" kept
}

upgraded() {
    server=$(property MainPID)
    touch /lib/systemd/system/pmfs@.service  # another one than the package's, for systemd
    systemctl daemon-reload
    check "dpkg installs the packages over a running server" sh -c "dpkg -i /packages/*.deb"
    check "systemd has read their unit" same "$(property NeedDaemonReload)" no
    check "which goes on" stays "$server"
    check "and accepts changes" sh -c "echo new >$mnt/new && rm $mnt/new"
    check "and can be remounted" sh -c "mount -o remount,ro $mnt && mount -o remount,rw $mnt"
    check "systemctl restart, upgraded" systemctl restart $unit
    server=$(property MainPID)
    check "the package is removed under a running server" dpkg -r pmfs
    check "which goes on, removed" stays "$server"
    check "systemctl stop, removed" systemctl stop $unit
    check "nothing is mounted, removed" not_mounted $mnt
    check "the package is installed again" sh -c "dpkg -i /packages/*.deb && udevadm settle"
    check "fsck.pmfs finds nothing, installed again" fsck.pmfs -n label:rig
    check "systemctl start, installed again" systemctl start $unit
    check "with its file, installed again" same "$(cat $mnt/file)" kept
}

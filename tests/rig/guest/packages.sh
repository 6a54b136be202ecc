#!/bin/sh
# In a chroot with a bare Debian 12: installs the packages beside this file, and uses what they bring.
# Prints PASS or FAIL and a claim for each, and DONE at the end.
cd /packages || exit 1
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
claim() {
    words=$1
    shift
    if "$@" >&2; then echo "PASS $words"; else echo "FAIL $words"; fi
}

install_all() {
    rm -f ./*-dbgsym_*.deb
    apt-get -qq -o Acquire::Check-Valid-Until=false update &&
        apt-get -qq -y --no-install-recommends install ./*.deb
}

serves() {
    mkdir -p /pm
    mkfs.pmfs -q --size 64M -L packaged /image || return 1
    ln -sfn /image /dev/pmfs/by-label/rig-packaged
    mount -t pmfs label:packaged /pm && echo kept >/pm/file && umount /pm || return 1
    mount -t pmfs /image /pm && [ "$(cat /pm/file)" = kept ] && pmfsctl status /pm
    ok=$?
    umount /pm
    return $ok
}

complete() {
    bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader pmfsctl
        COMP_WORDS=(pmfsctl doc); COMP_CWORD=1; _pmfs_complete pmfsctl; [ "${COMPREPLY[0]}" = doctor ] || exit
        for name in mount.pmfs mkfs.pmfs fsck.pmfs; do
            _completion_loader $name
            complete -p $name || exit
            COMP_WORDS=($name --hel); COMP_CWORD=1; _pmfs_complete $name; [ "${COMPREPLY[0]}" = --help ] || exit
        done'
}

manual() {
    for page in 8/mount.pmfs 8/mkfs.pmfs 8/fsck.pmfs 8/pmfsctl 7/pmfs 5/pmfs 3/pmfs 7/libpmfs-preload; do
        # (man finds another section's page of that name, if it is not told.)
        man -P cat "${page%%/*}" "${page#*/}" | grep -q "^SEE ALSO" || return 1
    done
}

unit() { systemd-analyze verify /lib/systemd/system/pmfs@.service; }
rules() { [ -e /lib/udev/rules.d/60-pmfs.rules ] && getent group dax; }

removed() {
    dpkg -P pmfs libpmfs-dev libpmfs1 && ! command -v mount.pmfs
}

claim "apt installs them" install_all
claim "mount -t pmfs serves an image, by its path and by its label" serves
rm -f /dev/pmfs/by-label/rig-packaged
claim "fsck.pmfs finds nothing wrong with it" fsck.pmfs -n /image
claim "the manual pages are there" manual
claim "bash completes pmfsctl's verbs" complete
claim "systemd accepts pmfs@.service" unit
claim "the udev rules and the group dax are there" rules
claim "pmfsctl doctor says that the image is all right" pmfsctl doctor /image
claim "they can be removed" removed
echo DONE

#!/usr/bin/sh
# init of a guest that has a whole Debian on its disk (debian_system.py): mounts it, and hands over to its systemd.
export PATH=/usr/bin
busybox mount -t proc proc /proc # it finds itself by /proc
busybox --install -s /usr/bin 2>/dev/null # leaves what is there already
mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/printk
while read -r module; do
    insmod "$module" || echo "rig: cannot load $module"
done </modules
tries=200
until [ -b /dev/vda ] || [ $tries = 0 ]; do
    usleep 50000
    tries=$((tries - 1))
done
mount -t ext4 /dev/vda /mnt || exec poweroff -f
echo "rig: the disk is mounted after $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
mount --move /dev /mnt/dev
umount /proc
exec switch_root /mnt /lib/systemd/systemd

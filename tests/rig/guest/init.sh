#!/usr/bin/sh
# init of every guest of the rig: mounts what programs expect, loads /modules, runs /test, powers off.
# The host waits for "rig: end": without it a guest did not come to its end.
export PATH=/usr/bin HOME=/root LC_ALL=C.UTF-8
busybox mount -t proc proc /proc # it finds itself by /proc
busybox --install -s /usr/bin 2>/dev/null # leaves what is there already
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t tmpfs shm /dev/shm
ln -s /proc/self/fd /dev/fd
ip link set lo up
echo 1 >/proc/sys/kernel/printk # what the kernel says is shown at the end, if something failed
echo "rig: up after $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
while read -r module; do
    insmod "$module" || echo "rig: cannot load $module"
done </modules
/test
echo "rig: end after $(cut -d' ' -f1 /proc/uptime) s"
sync
poweroff -f

#!/bin/sh
# The outer guest of part C: pmfs on a device-DAX namespace, and a virtual machine that maps a file of it.
. /lib/rig.sh
mkdir -p /mnt

inner() { # the inner guest, until its end; what it claims are claims of ours
    timeout 700 /qemu/loader --library-path /qemu/lib /qemu/qemu-system-x86_64 -L /qemu/share \
        -accel tcg -cpu max -machine q35,memory-backend=memory -m 256M -nodefaults -no-user-config \
        -object memory-backend-memfd,id=memory,size=256M,share=on -display none -serial stdio -no-reboot \
        -kernel /qemu/vmlinuz -initrd /qemu/initramfs \
        -append "console=ttyS0 panic=-1 rdinit=/init quiet no_timer_check mitigations=off rig_sum=$1" \
        -chardev socket,id=fs,path=/run/vm.sock \
        -device vhost-user-test-device-pci,chardev=fs,virtio-id=26,num_vqs=2,vq_size=128,config_size=40 </dev/null |
        tr -d '\r' | tee /tmp/inner
    grep -q "rig: end" /tmp/inner || fail "the inner guest comes to its end" "it does not"
}

check "a devdax namespace, aligned to 4 KiB" \
    ndctl create-namespace --mode=devdax --align=4K --force --reconfig=namespace0.0 || exit
check "the node appears" wait_for 10 test -c /dev/dax0.0
check "mkfs.pmfs" mkfs.pmfs -q /dev/dax0.0
check "mount, with a socket for a guest" mount.pmfs /dev/dax0.0 /mnt -o vhost=/run/vm.sock,dax,window=64M || exit
head -c $((8 << 20)) /dev/urandom >/mnt/file
check "prepared and sealed" pmfsctl seal --prepare /mnt/file
inner "$(md5sum </mnt/file | cut -d' ' -f1)"
check "what the inner guest stored is in the file" \
    same "$(dd if=/mnt/file bs=4096 skip=1 count=1 iflag=direct 2>/dev/null | head -c 21)" word-of-the-innermost
check "nobody holds it any more" sh -c "pmfsctl holders /mnt/file | grep -q 'has no holders'"
check "unseal" pmfsctl unseal /mnt/file
server=$(pmfsctl status --json /mnt | jq .server_pid)
check "umount" umount /mnt
is_gone() { ! kill -0 "$server" 2>/dev/null; }
check "the server ends" wait_for 20 is_gone
check "fsck.pmfs finds nothing" fsck.pmfs -n /dev/dax0.0
check "no complaint of the kernel" quiet_kernel

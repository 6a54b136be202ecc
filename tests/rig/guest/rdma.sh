#!/bin/sh
# RDMA on a sealed file of pmfs, over soft RoCE; and who else lets a mapping be pinned for long.  Three
# NVDIMMs: device-DAX for pmfs, and one each for ext4 and XFS with DAX.
. /lib/rig.sh
device=/dev/dax0.0
mkdir -p /mnt /ext4 /xfs
digest() { pmfsctl info --json /mnt/sealed | jq -r .map_digest; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
ended() { # the server of the mount
    server=$1
    wait_for 20 is_gone "$server"
}

prepare_network() {
    ip link add dummy0 type dummy 2>/dev/null
    ip link set dummy0 up && ip addr add 10.9.9.1/24 dev dummy0 && rdma link add rxe0 type rxe netdev dummy0
}

prepare_media() {
    check "a devdax namespace" ndctl create-namespace --mode=devdax --align=2M --force --reconfig=namespace0.0
    check "a pmfs volume, mounted" sh -c "mkfs.pmfs -q $device && mount -t pmfs $device /mnt"
    for peer in "1 ext4 /ext4" "2 xfs /xfs"; do
        # shellcheck disable=SC2086
        set -- $peer
        ndctl create-namespace --mode=fsdax --force --reconfig="namespace$1.0" >/tmp/said 2>&1 &&
            case $2 in
                ext4) mkfs.ext4 -q -b 4096 "/dev/pmem$1" ;;
                xfs) mkfs.xfs -q -f -m reflink=0 "/dev/pmem$1" ;;
            esac >>/tmp/said 2>&1 && mount -t "$2" -o dax=always "/dev/pmem$1" "$3" >>/tmp/said 2>&1 ||
            fail "$2 with DAX" "$(grep -v '^[ {}]' /tmp/said | tr '\n' '|')"
    done
    head -c 2097152 /dev/urandom >/tmp/bytes
    for place in /ext4/file /xfs/file /mnt/plain; do cp /tmp/bytes $place; done
    head -c 12583912 /dev/urandom >/mnt/sealed # six units and 1000 bytes
    check "a sealed file" pmfsctl seal --prepare /mnt/sealed
}

serve_rdma() {
    before=$(digest)
    head -c 4096 /mnt/sealed | sha256sum >/tmp/edge
    rdma_file serve /mnt/sealed /tmp/rdma >/tmp/serve 2>&1 &
    target=$!
    check "ibv_reg_mr on the mapping of the sealed file" wait_for 20 grep -q registered /tmp/serve ||
        fail "the target" "$(cat /tmp/serve)"
    wait_for 5 test -S /tmp/rdma
    check "a second process: RDMA READ and WRITE, and read(2) agrees" rdma_file client /mnt/sealed /tmp/rdma
    check "and again" rdma_file client /mnt/sealed /tmp/rdma
    check "what is beside the range stayed" same "$(head -c 4096 /mnt/sealed | sha256sum)" "$(cat /tmp/edge)"
    refuse "unseal while it is registered: EBUSY" "Device or resource busy" \
        setfattr -x trusted.pmfs.seal /mnt/sealed
    refuse "pmfsctl unseal says who" "temporary grant of process $target (rdma_file)" pmfsctl unseal /mnt/sealed
    check "so does pmfsctl holders" sh -c "pmfsctl holders --json /mnt/sealed |
        jq -e '.holders[] | select(.kind == \"temporary\" and .pid == $target and .process == \"rdma_file\")'"
    refuse "truncate while it is registered: ETXTBSY" "Text file busy" truncate -s 1M /mnt/sealed
    check "the map is the same" same "$(digest)" "$before"
    sha256sum </mnt/sealed >/tmp/sum
    rdma_file end /mnt/sealed /tmp/rdma
    wait $target
    check "the target unregisters and ends" same $? 0
    check "then nobody holds it" sh -c "pmfsctl holders /mnt/sealed | grep -q 'has no holders'"
}

durable() {
    server=$(pmfsctl status --json /mnt | jq .server_pid)
    kill -KILL "$server"
    ended "$server"
    umount -l /mnt
    check "after the server's death: mount" mount -t pmfs $device /mnt
    check "the bytes that RDMA and io_uring wrote are there" same "$(sha256sum </mnt/sealed)" "$(cat /tmp/sum)"
    check "at the same place" same "$(digest)" "$before"
    check "unseal" pmfsctl unseal /mnt/sealed
    server=$(pmfsctl status --json /mnt | jq .server_pid)
    umount /mnt
    ended "$server"
    check "fsck.pmfs" fsck.pmfs $device
}

uring() { # a long-term pin, and transfers between a file of ext4 and the mapping, without a copy
    check "io_uring: READ_FIXED and WRITE_FIXED on the mapping" uring_fixed /mnt/sealed /ext4
    check "io_uring: the map is the same" same "$(digest)" "$before"
    sha256sum </mnt/sealed >/tmp/sum
}

table() {
    pin_table pmfs=pmfs:/mnt/sealed ext4-dax=file:/ext4/file xfs-dax=file:/xfs/file \
        fuse=file:/mnt/plain tmpfs=file:/tmp/bytes anonymous=anonymous: >/tmp/table 2>&1 ||
        fail "the table" "$(cat /tmp/table)"
    sed 's/^/INFO /' /tmp/table
    while read -r name uring rdma; do
        check "long-term pins: $name: io_uring $uring, RDMA $rdma" grep -qx "ROW $name $uring $rdma" /tmp/table
    done <<EOF
pmfs ok ok
ext4-dax EOPNOTSUPP EOPNOTSUPP
xfs-dax EOPNOTSUPP EOPNOTSUPP
fuse EFAULT EFAULT
tmpfs ok ok
anonymous ok ok
EOF
}

check "soft RoCE" prepare_network
prepare_media
serve_rdma
uring
table
durable
umount /ext4
umount /xfs
check "no complaint of the kernel" quiet_kernel

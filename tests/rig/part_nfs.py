"""Part nfs: a guest whose kernel exports a pmfs volume over NFS, and is its own client.

The kernel of the machine that runs the rig has no NFS, so one guest is both: mount.pmfs on a region in its
memory, nfsd of Debian's kernel, and a mount of the export by 127.0.0.1 with vers=4.2 and with vers=3.
guest/nfs.sh says what is tried: a tree, git, SQLite and a build; what each version of NFS knows of a file; locks,
with the kernel's own and with local_lock=none; a server of pmfs that is stopped, and one that is killed.
"""
# Holds docs/posix.md "NFS".
import kernel as kernels
import packages
from guest import Guest, qemu
from part_a import TOOLS, add_real_programs

MODULES = ["fuse", "nfsd", "nfs", "nfsv3", "nfsv4", "?rpcsec_gss_krb5", "?crc32c_generic"]
SERVER = ["nfs-kernel-server", "nfs-common", "rpcbind", "netbase", "libtirpc-common", "acl"]
SERVER_PROGRAMS = ["usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd", "usr/sbin/rpc.statd", "usr/sbin/exportfs",
                   "usr/sbin/rpcbind", "usr/sbin/mount.nfs", "usr/sbin/umount.nfs", "usr/bin/setfacl", "usr/bin/getfacl",
                   "usr/sbin/sm-notify"]
SERVER_FILES = ["etc/netconfig", "etc/protocols", "etc/services", "etc/rpc"]
BOOT_SECONDS = 700


def run(place):
    kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    image = place.initramfs("nfs", kernel, MODULES, "nfs.sh",
                            [*TOOLS, "usr/bin/mount", "usr/bin/umount", "usr/bin/fallocate", "usr/bin/jq"],
                            ["tests/rig/file_calls"], change=add_programs)
    outcome = Guest(qemu(), kernel, image, log=place.scratch / "nfs.log", seconds=BOOT_SECONDS, memory="2G",
                    cpus=2).run()
    place.judge(f"nfs: Linux {kernel.release}", outcome, show_info=True)
    print(f"rig: nfs: {outcome.seconds:.1f} s", flush=True)


def add_programs(made, _):
    server = packages.tree(packages.STABLE, "nfs", SERVER)
    for program in SERVER_PROGRAMS:
        made.add_program(program, root=server)
    made.add_link("/usr/bin/mount.nfs4", "mount.nfs")
    for file in SERVER_FILES:
        made.add_file(f"/{file}", server / file)
    made.add_text("/etc/hosts", "127.0.0.1 localhost\n")
    made.add_text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
    made.add_text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n_rpc:x:100:65534::/run/rpcbind:/bin/false\n"
                                 "user:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    made.add_text("/etc/group", "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\n")
    add_real_programs(made)

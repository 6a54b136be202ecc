"""Part nfs: guests that export a pmfs volume over NFS, and are their own clients.

The kernel of the machine that runs the rig has no NFS, so one guest is both: mount.pmfs on a region in its
memory, a server, and a mount of the export by 127.0.0.1 with vers=4.2 and with vers=3.  One guest's server is
nfsd of Debian's kernel (guest/nfs.sh), the other's is nfs-ganesha (guest/ganesha.sh, guest/ganesha.conf).
Both try a tree, git, SQLite and a build; what each version of NFS knows of a file; locks; a sealed file; a
server of pmfs that is stopped, and one that is killed (guest/nfs_load.sh).
"""
# Holds docs/posix.md "NFS" and its part "nfs-ganesha".
import kernel as kernels
import packages
from guest import Guest, qemu
from part_a import TOOLS, add_real_programs
from workplace import HERE

CLIENT_MODULES = ["fuse", "nfs", "nfsv3", "nfsv4", "?rpcsec_gss_krb5", "?crc32c_generic"]
MODULES = ["fuse", "nfsd", *CLIENT_MODULES[1:]]
SERVER = ["nfs-kernel-server", "nfs-common", "rpcbind", "netbase", "libtirpc-common", "acl"]
CLIENT_PROGRAMS = ["usr/sbin/rpc.statd", "usr/sbin/rpcbind", "usr/sbin/mount.nfs", "usr/sbin/umount.nfs",
                   "usr/bin/setfacl", "usr/bin/getfacl", "usr/sbin/sm-notify"]
SERVER_PROGRAMS = ["usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd", "usr/sbin/exportfs"]
CLIENT_FILES = ["etc/netconfig", "etc/protocols", "etc/services", "etc/rpc"]
GANESHA = ["nfs-ganesha", "nfs-ganesha-vfs"]
GANESHA_MODULES = ["usr/lib/x86_64-linux-gnu/ganesha/libfsalvfs.so", "usr/lib/x86_64-linux-gnu/libnfsidmap/nsswitch.so"]
USUAL_TOOLS = [*TOOLS, "usr/bin/mount", "usr/bin/umount", "usr/bin/fallocate", "usr/bin/jq"]
BOOT_SECONDS = 1800  # a quarter of that where nothing else runs


def run(place):
    kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    guests = []
    for name, modules, script, change in (("nfs", MODULES, "nfs.sh", add_kernel_server),
                                          ("nfs: nfs-ganesha", CLIENT_MODULES, "ganesha.sh", add_ganesha)):
        image = place.initramfs(script, kernel, modules, script, USUAL_TOOLS, ["tests/rig/file_calls"], change=change)
        guests.append((name, Guest(qemu(), kernel, image, log=place.scratch / f"{script}.log", seconds=BOOT_SECONDS,
                                   memory="2G", cpus=2)))

    def judged(name, guest):
        outcome = guest.run()
        place.judge(f"{name}: Linux {kernel.release}", outcome, show_info=True)
        print(f"rig: {name}: {outcome.seconds:.1f} s", flush=True)

    place.together([lambda name=name, guest=guest: judged(name, guest) for name, guest in guests])


def add_kernel_server(made, _):
    server = packages.tree(packages.STABLE, "nfs", SERVER)
    for program in SERVER_PROGRAMS:
        made.add_program(program, root=server)
    add_client(made, server)


def add_ganesha(made, _):
    ganesha = packages.tree(packages.STABLE, "ganesha", GANESHA)
    made.add_program("usr/bin/ganesha.nfsd", root=ganesha)
    for module in GANESHA_MODULES:
        made.add_libraries_of(ganesha / module, ganesha)
        made.add_file(f"/{module}", ganesha / module)
    made.add_file("/etc/idmapd.conf", ganesha / "usr/share/nfs-common/conffiles/idmapd.conf")
    made.add_file("/etc/ganesha/ganesha.conf", HERE / "guest/ganesha.conf")
    made.add_link("/etc/mtab", "/proc/self/mounts")
    add_client(made, packages.tree(packages.STABLE, "nfs", SERVER))


def add_client(made, root):
    for program in CLIENT_PROGRAMS:
        made.add_program(program, root=root)
    made.add_link("/usr/bin/mount.nfs4", "mount.nfs")
    for file in CLIENT_FILES:
        made.add_file(f"/{file}", root / file)
    made.add_file("/lib/nfs_load.sh", HERE / "guest/nfs_load.sh")
    made.add_text("/etc/hosts", "127.0.0.1 localhost rig\n")
    made.add_text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
    made.add_text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n_rpc:x:100:65534::/run/rpcbind:/bin/false\n"
                                 "user:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    made.add_text("/etc/group", "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\n")
    add_real_programs(made)

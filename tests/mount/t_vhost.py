#!/usr/bin/env python3
"""The sockets of guests on a real mount: what a virtual machine monitor may hand over."""
import array
import os
import socket
import struct

from fixture import claim, run_claims

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, GET_PROTOCOL, SET_PROTOCOL = 1, 2, 3, 5, 15, 16
VERSION, NEED_REPLY = 1, 8
REPLY_ACK = 1 << 3
MEMORY = 4 << 20


class FrontEnd:
    """As much of a VMM as it takes to hand over memory (QEMU's docs/interop/vhost-user.rst)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(os.fspath(path))
        features = self.ask(GET_FEATURES)
        self.send(SET_FEATURES, struct.pack("Q", features))
        self.send(SET_PROTOCOL, struct.pack("Q", self.ask(GET_PROTOCOL) & REPLY_ACK))
        self.send(SET_OWNER)

    def send(self, request, payload=b"", flags=VERSION, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("III", request, flags, len(payload)) + payload], rights)

    def answer(self):
        header = self.socket.recv(12, socket.MSG_WAITALL)
        if len(header) < 12:
            return None  # the server has hung up
        return struct.unpack("Q", self.socket.recv(8, socket.MSG_WAITALL))[0]

    def ask(self, request):
        self.send(request)
        return self.answer()

    def give_memory(self, fd):
        """True if the server takes it."""
        table = struct.pack("II", 1, 0) + struct.pack("QQQQ", 0, MEMORY, 0x10000, 0)
        self.send(SET_MEM_TABLE, table, VERSION | NEED_REPLY, [fd])
        return self.answer() == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@claim("guest memory must not be a file that a process serves, such as this server: it could block",
       alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.directory / "guest.sock"
    volume.unmount()
    volume.mount(f"vhost={path}")
    memory = os.memfd_create("guest")
    os.ftruncate(memory, MEMORY)
    with FrontEnd(path) as vmm:
        assert vmm.give_memory(memory), volume.log_text()
    served = os.open(volume.mnt / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(served, MEMORY)
    with FrontEnd(path) as vmm:
        assert not vmm.give_memory(served)
    assert "filesystem that another process or machine serves" in volume.log_text(), volume.log_text()
    os.close(served)
    os.close(memory)


if __name__ == "__main__":
    run_claims()

#!/usr/bin/env python3
"""The programs in tools/examples that hand a map over, or a layout out."""
# Holds docs/grants.md "By what you do".
import os
import subprocess

from libpmfs import ctl, holders, info, make_file, open_direct, pattern
from fixture import claim, program, run, run_claims

MIB = 1 << 20


def example(name, *words, ok=True):
    return run(program(name), *words, ok=ok, timeout=60)


@claim("stable_map: a process without privileges writes through the map that it was handed")
def _(here):
    make_file(here / "f", 4 * MIB)
    out = example("stable_map", here / "f", 1000).stdout
    assert "user 1000 wrote 1024 slots" in out and "all 1024 of them are read back" in out
    assert info(here / "f")["grants"] == 0
    ctl("seal", here / "f")
    example("stable_map", here / "f")


class Server:
    """layout_server at work."""

    def __init__(self, path, socket):
        self.process = subprocess.Popen([program("layout_server"), "serve", path, socket],
                                        stdout=subprocess.PIPE, text=True)
        assert self.line().startswith("lease taken")

    def line(self):
        return self.process.stdout.readline()

    def takes(self, size):
        """Until it has a lease of a file of that size."""
        while self.line() != f"lease taken: {size} bytes\n":
            assert self.process.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(20) == 0


def layout(client):
    """What a client prints of a layout: (offset, device, length)."""
    lines = iter(client.stdout.readline, "that is all\n")
    return [tuple(map(int, line.split())) for line in lines]


def extents_again(client):
    """The layout that comes after one is revoked."""
    assert client.stdout.readline() == "revoked\n"
    return layout(client)


@claim("layout_server: serves reads from the region, hands out the layout, and reacts to breaks",
       alone=True)
def _(maker):
    volume = maker.volume()
    path, socket = volume.mnt / "f", volume.directory / "socket"
    data = make_file(path, 3 * MIB)

    def served(offset, length):
        return subprocess.run([program("layout_server"), "read", socket, str(offset), str(length)],
                              stdout=subprocess.PIPE, timeout=30, check=True).stdout

    def device(extents, size):
        with open(volume.region, "rb") as region:
            return b"".join(os.pread(region.fileno(), length, at)
                            for _, at, length in extents)[:size]

    with Server(path, socket) as server:
        assert served(0, 4 * MIB) == data and served(MIB + 5, 7) == data[MIB + 5:MIB + 12]
        clients = [subprocess.Popen([program("layout_server"), "layout", socket], text=True,
                                    stdout=subprocess.PIPE) for _ in range(3)]
        for client in clients:
            assert device(layout(client), 3 * MIB) == data
        assert [h["kind"] for h in holders(path)].count("breakable") == 1
        for size in (2 * MIB, MIB):  # each truncate breaks the lease
            os.truncate(path, size)
            server.takes(size)
            for client in clients:
                while sum(length for _, _, length in extents_again(client)) != size:
                    pass
            assert served(0, 4 * MIB) == data[:size]
        fd = open_direct(path)
        os.pwrite(fd, pattern(MIB, 5), MIB)  # an append breaks it, too
        os.close(fd)
        server.takes(2 * MIB)
        assert served(MIB, MIB) == pattern(MIB, 5)
        for client in clients:
            client.kill()
            client.communicate()
    assert info(path)["grants"] == 0


if __name__ == "__main__":
    run_claims()

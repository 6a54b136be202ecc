#!/usr/bin/env python3
"""Extended attributes."""
# Holds docs/posix.md "Permissions".
import errno
import os
import random

from fixture import as_user, claim, fails, run_claims


@claim("an xattr comes back as it was set, from 0 bytes to 64 KiB")
def _(here):
    (here / "f").touch()
    source = random.Random(1)
    values = {}
    for size in (0, 1, 100, 1000, 4000, 4096, 5000, 20000, 65536):
        name = f"user.size{size}"
        values[name] = source.randbytes(size)
        os.setxattr(here / "f", name, values[name])
    assert set(os.listxattr(here / "f")) == set(values)
    for name, value in values.items():
        assert os.getxattr(here / "f", name) == value, name
    with fails(errno.E2BIG, errno.ENOSPC):
        os.setxattr(here / "f", "user.big", b"x" * 65537)
    for name in values:
        os.removexattr(here / "f", name)
    assert os.listxattr(here / "f") == []


@claim("XATTR_CREATE only creates, XATTR_REPLACE only replaces")
def _(here):
    (here / "f").touch()
    with fails(errno.ENODATA):
        os.setxattr(here / "f", "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(here / "f", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(here / "f", "user.a", b"2", os.XATTR_CREATE)
    assert os.getxattr(here / "f", "user.a") == b"1"
    os.setxattr(here / "f", "user.a", b"three", os.XATTR_REPLACE)
    assert os.getxattr(here / "f", "user.a") == b"three"
    os.setxattr(here / "f", "user.a", b"4")
    assert os.getxattr(here / "f", "user.a") == b"4"
    os.removexattr(here / "f", "user.a")
    with fails(errno.ENODATA):
        os.removexattr(here / "f", "user.a")
    with fails(errno.ENODATA):
        os.getxattr(here / "f", "user.a")


@claim("a file may have hundreds of xattrs, and their names up to 255 bytes")
def _(here):
    (here / "f").touch()
    values = {f"user.{'n' * (number % 240)}{number:05}": str(number).encode() for number in range(300)}
    for name, value in values.items():
        os.setxattr(here / "f", name, value)
    assert set(os.listxattr(here / "f")) == set(values)
    for name, value in values.items():
        assert os.getxattr(here / "f", name) == value
    os.setxattr(here / "f", "user." + "x" * 250, b"longest")
    with fails(errno.ERANGE, errno.ENAMETOOLONG):
        os.setxattr(here / "f", "user." + "x" * 251, b"too long")


@claim("directories and the other prefixes have xattrs; trusted ones are for root")
def _(here):
    os.mkdir(here / "dir")
    os.setxattr(here / "dir", "user.on", b"directory")
    os.setxattr(here / "dir", "trusted.secret", b"root's")
    os.setxattr(here / "dir", "security.pmfstest", b"label")
    assert os.getxattr(here / "dir", "trusted.secret") == b"root's"
    os.chmod(here / "dir", 0o777)

    def user():
        assert os.getxattr(here / "dir", "user.on") == b"directory"
        with fails(errno.ENODATA, errno.EPERM):
            os.getxattr(here / "dir", "trusted.secret")
        with fails(errno.EPERM):
            os.setxattr(here / "dir", "trusted.other", b"x")
    as_user(user)


@claim("names of trusted attributes are listed to root only")
def _(here):
    (here / "f").touch()
    os.chmod(here, 0o755)
    os.setxattr(here / "f", "trusted.a", b"1")
    os.setxattr(here / "f", "user.b", b"2")
    assert sorted(os.listxattr(here / "f")) == ["trusted.a", "user.b"]

    def user():
        assert os.listxattr(here / "f") == ["user.b"], os.listxattr(here / "f")
    as_user(user)


@claim("a name is refused as by ext4: a prefix alone, an unknown prefix, none, one that is too long")
def _(here):
    (here / "f").touch()
    cases = [(prefix, errno.EINVAL) for prefix in ("user.", "trusted.", "security.")]
    cases += [(name, errno.EOPNOTSUPP) for name in ("user", "trusted", "User.a", "system.", "system.foo",
                                                    "foo.bar", "x" * 255, "system.nfs4_acl", ".")]
    cases += [(name, errno.ERANGE) for name in ("", "user." + "x" * 251, "x" * 256)]
    for name, code in cases:
        with fails(code):
            os.getxattr(here / "f", name)
        for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
            with fails(code):
                os.setxattr(here / "f", name, b"x", flags)
        with fails(code):
            os.removexattr(here / "f", name)
    assert os.listxattr(here / "f") == []


@claim("xattrs stay with the file: on rename, on hard links, and until it is removed")
def _(here):
    (here / "a").touch()
    os.setxattr(here / "a", "user.x", b"big" * 10000)
    os.link(here / "a", here / "b")
    os.rename(here / "a", here / "c")
    assert os.getxattr(here / "b", "user.x") == os.getxattr(here / "c", "user.x") == b"big" * 10000
    free = os.statvfs(here).f_bfree
    os.unlink(here / "b")
    os.unlink(here / "c")
    for _ in range(100):
        if os.statvfs(here).f_bfree >= free:
            break


@claim("setting an xattr changes ctime and not mtime")
def _(here):
    import time
    (here / "f").touch()
    before = os.stat(here / "f")
    time.sleep(0.02)
    os.setxattr(here / "f", "user.x", b"1")
    after = os.stat(here / "f")
    assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == before.st_mtime_ns


if __name__ == "__main__":
    run_claims()

"""Grants, seals and breaks: inside the server, and through a mount on memory.

    map_busy, map_busy_image    pmfs_map while ten users PREPARE large files; the peer: nobody else does anything
"""
import memory_mount


def rows(context):
    yield from context.json_rows(context.program("bench_seal"), "engine")
    with memory_mount.mounted(context) as directory:
        yield from context.json_rows(context.program("bench_seal"), directory)
    for kind, suffix in (("memory", ""), ("image", "_image")):
        with memory_mount.mounted(context, kind) as directory:
            for row in context.json_rows(context.program("bench_seal"), directory, "busy"):
                yield {**row, "name": row["name"] + suffix}

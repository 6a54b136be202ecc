"""Grants, seals and breaks: inside the server, and through a mount on memory."""
import memory_mount


def rows(context):
    yield from context.json_rows(context.program("bench_seal"), "engine")
    with memory_mount.mounted(context) as directory:
        yield from context.json_rows(context.program("bench_seal"), directory)

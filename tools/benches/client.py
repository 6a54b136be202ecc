"""Direct mappings of a file of 1 GiB, on a volume in memory."""
import memory_mount


def rows(context):
    with memory_mount.mounted(context) as directory:
        yield from context.json_rows(context.program("bench_client"), directory)

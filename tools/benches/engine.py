"""The engine alone, in one process on a region in memory."""


def rows(context):
    yield from context.json_rows(context.program("bench_engine"))

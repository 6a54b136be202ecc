"""The engine alone, in one process on a region in memory.

    lookup ... create_millionth   calls of one thread; the peer of data is the copy that it cannot do without
    append_1m_two     two threads that append 1 MiB each to their own file, beside one; copy_1m_two is the
                      same without a filesystem: what this machine lets two threads have, and
                      append_1m_two_share sets the two appenders beside that
    hold_WHAT         the longest hold of the volume's lock, in ms of CPU time, while WHAT works on a file of
                      hold_extents extents: a million with --long, where there is the memory, else 200,000
    wait_WHAT         the longest getattr or chmod on another file meanwhile, in ms.  The peer is the same
                      with nothing else going on
    p999_WHAT         99.9 % of those getattrs are shorter, in us
    took_WHAT         how long the work took
    threads_WHAT_NN   NN threads together, beside one (only with --long)
"""
import os

EXTENTS, EXTENTS_LONG = 200_000, 1_000_000
MEMORY = 14 << 30  # for a million, with some to spare


def rows(context):
    program = context.program("bench_engine")
    yield from context.json_rows(program, "calls")
    yield from context.json_rows(program, "pair")
    there = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    extents = EXTENTS_LONG if context.long and there >= MEMORY else EXTENTS
    yield {"name": "engine.hold_extents", "value": extents, "unit": ""}
    yield from context.json_rows(program, "holds", extents)
    if context.long:
        yield from context.json_rows(program, "threads")

# SPDX-License-Identifier: Apache-2.0
"""What keeps a mount alive while the process that serves it dies or is replaced.

A small *holder* process keeps the `/dev/fuse` descriptor and shared memory, and starts *workers* that serve from them.

    spec.py        what the holder is told when it starts
    messages.py    JSON lines over unix sockets: holder <-> worker, `sluice mount` <-> holder
    runtime.py     where the holder of a mount is found
    supervisor.py  the holder's loop: start, watch, replace, end
    children.py    one worker process as the holder sees it
    unmounting.py     ending a connection that nobody answers any more
    handles.py     open handles in shared memory
    writelog.py    acknowledged, unrecorded bytes in shared memory
    table.py       both behind `core.vfs.keeper.Keeper`, and what a worker leaves to the next
    client.py      the worker's end of the holder's line

The holder itself (`python holder/__main__.py`) imports the standard library only, so that it stays small and has little
that could break: spec, messages, runtime, supervisor, children, unmounting.
"""

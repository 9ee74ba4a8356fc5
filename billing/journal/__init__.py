"""The journal: what a process keeps of its calls, in files that outlive it.

Each serving process owns one directory `<journal dir>/<host>-<epoch>/`:

- `lock`: held with flock for the process's life; the kernel drops it at death, whatever the cause,
  which is how anybody else tells a dead process from a slow one (no timers, no clocks);
- `slots`: a memory-mapped table of the calls in flight (slots.py): opened before any byte goes
  upstream, updated before each piece is forwarded, freed after the settlement is written;
- `log-<offset>`: preallocated segments of settlements, only appended to (frames.py);
- `page`: a few shared counters: how much is written, durable, ingested;
- `wake`: a FIFO that wakes whoever makes the log durable;
- `ready`: made last, so that a starting process is never taken for a dead one.

Pure and without Django: frames, records, slots, lease. With files: directory, writer, reader. The
database's side is billing/ingest.py. See docs/adr/0005.
"""

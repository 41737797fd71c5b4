"""The stage graph: content-addressed keys, the artifact store, the ready loop and its executors.

graph.py      a stage as a value: `Node`, its key, and the kinds of stage by file name
store.py      where artifacts live: commit by one rename, verify, failures, collection of stale work
slots.py      kernel locks: one per key, one per CPU or GPU slot of this machine
reaper.py     ends what a dead worker left behind
worker.py     one stage, in a process of its own
executors/    where workers run: local now, anything that can start `worker.run_task(root, key)` later
scheduler.py  the ready loop: a generator of events
forecast.py   how long stages will take, from those that are finished
progress.py   live table or plain lines

Nothing here imports torch, and nothing is imported before it is asked for.
"""

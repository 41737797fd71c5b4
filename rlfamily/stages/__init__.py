"""The stage graph: content-addressed keys, the artifact store, the ready loop and its executors.

kind.py       what a kind of stage declares; kinds by file name
kinds/        one file each
graph.py      a stage as a value: `Node` and its key
store.py      where artifacts live: commit by one rename, verify, failures, collection of stale work
worker.py     one stage: lock its key, perform it, say why when it fails
perform.py    give the kind its place, config and inputs; commit what it leaves
launched.py   the same over several processes
executors/    where workers run: anything that can start `worker.run_task(root, key)`
scheduler.py  the ready loop: a generator of events
forecast.py   how long stages will take, from those that are finished
measured.py   the seconds that ship with the package, from a finished results folder
progress.py   live table or plain lines

Nothing here imports torch, and nothing is imported before it is asked for.
"""

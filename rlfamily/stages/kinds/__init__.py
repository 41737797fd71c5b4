"""Kinds of stage, one file each: `VERSION` and `run(context)`. torch is imported inside `run` only."""

"""Batches to an updated model: `sources` gives batches, `loop` updates, `run` records, checkpoints and resumes."""

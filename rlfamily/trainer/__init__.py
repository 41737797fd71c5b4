"""Batches to an updated model: `sources` gives batches, `loop` updates, `record` records, checkpoints and resumes."""

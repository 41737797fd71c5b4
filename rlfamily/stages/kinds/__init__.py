"""Kinds of stage, one file each (see `rlfamily.stages.kind.Kind`). torch is imported inside `run` only."""

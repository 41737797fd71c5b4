"""`python -m rlfamily`: which commands there are."""

from __future__ import annotations

COMMANDS = """rlfamily regenerates tables of RL-for-LLM papers. Its commands:

  python -m rlfamily.reproduce TABLE    a paper's table or figure (make reproduce TABLE=...); --plan starts nothing
  python -m rlfamily.train ...          one cell, or a Hydra multirun with -m; --cfg job shows the configuration
  python -m eval --all                  tables, figures and the report anew, from what is on disk (make report)

Each says more with --help; `make` lists what needs no Python."""

if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{COMMANDS}\n")

"""The other side of the race, in an environment of its own (requirements.txt)."""

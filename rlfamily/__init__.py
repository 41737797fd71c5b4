"""rlfamily: regenerate the tables of the RL-for-LLM papers with one command.

Importing the package is cheap on purpose: torch and transformers are loaded only by the modules that compute.
"""

__version__ = "0.1.0"

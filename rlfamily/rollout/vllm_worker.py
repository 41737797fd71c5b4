"""What a vLLM server's workers can do for us besides generating; vLLM loads it by name (`--worker-extension-cls`).

It runs inside the server, which therefore must be able to import this package.
"""

from __future__ import annotations

from typing import Any

from safetensors import safe_open

NAME = "rlfamily.rollout.vllm_worker.Extension"


class Extension:
    """Methods that vLLM mixes into each of its workers; results and arguments are text."""

    model_runner: Any
    handed_over = ""

    def take_weights(self, path: str, version: str) -> None:
        """Load the weights in a safetensors file, and remember them as `version`."""
        with safe_open(path, framework="pt") as file:
            self.model_runner.reload_weights(
                weights_iterator=((name, file.get_tensor(name)) for name in file.keys()))  # noqa: SIM118 (no mapping)
        self.handed_over = version

    def weights_version(self) -> str:
        """The version handed over last; "" for the weights that the server was started with."""
        return self.handed_over

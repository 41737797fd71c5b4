"""vLLM behind its OpenAI-compatible server, on this machine or another: token ids in and out, over HTTP.

A server of the user's own (hardware.vllm.server_url) is started with the arguments that `vllm_process` gives: they
decide what its log-probs are of. To follow a policy in training it needs `--worker-extension-cls` and
VLLM_SERVER_DEV_MODE=1 (all weights), or VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 (adapters), and must see the results folder
under the same path, since weights pass through a file there. It follows one run at a time, and keeps that run's
weights until it is started again.
"""

from __future__ import annotations

import os
import shutil
import uuid
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from openai import APIStatusError, DefaultHttpxClient, NotFoundError, OpenAI, OpenAIError
from safetensors.torch import save_file

from rlfamily.errors import UserError
from rlfamily.models.policy import locate
from rlfamily.models.sharded import world_size
from rlfamily.rollout import Completion, SamplingParams, check_room
from rlfamily.rollout.request_growth import RequestGrowth
from rlfamily.rollout.vllm_common import DTYPES, Start, tied, write_adapter
from rlfamily.rollout.vllm_process import Child, end, own_devices, start_server

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.models.policy import Policy
    from rlfamily.place import Place

KEY = "VLLM_API_KEY"  # vLLM's own name; a server that was started with one wants it
_RESTART = "start it again, or set hardware.vllm.server_url=null"


class VllmServerEngine:
    """Draws from a server. `policy` None: from the weights in the folder, for good.

    An engine that follows a policy has its first weights after `refresh`. Of several processes that train together
    each sends its own prompts; the first alone starts the server and hands weights over.
    """

    def __init__(self, start: Start, stop_ids: Sequence[int], policy: Policy | None, place: Place) -> None:
        self.policy, self.stop_ids, self.settings, self.dtype = policy, stop_ids, place.hardware.vllm, start.dtype
        self.work, self.shared = place.work.resolve(), world_size() > 1
        self.leads = not self.shared or torch.distributed.get_rank() == 0
        self.child = _started(start, place) if self.leads and self.settings.server_url is None else None
        if self.child is not None:
            weakref.finalize(self, end, self.child)
        url = self.child.url if self.child else (self.settings.server_url or "")
        self.url, self.run = self._agreed((url.rstrip("/").removesuffix("/v1"), uuid.uuid4().hex[:12]))
        self.version = 0
        self.client = OpenAI(
            api_key=os.environ.get(KEY) or "none", base_url=f"{self.url}/v1", max_retries=self.settings.retries,
            timeout=self.settings.timeout_seconds,
            # a server of our own is on this machine: no proxy knows the way
            http_client=DefaultHttpxClient(trust_env=self.settings.server_url is not None))
        self.model = self._checked(start)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int], copies: int = 1
    ) -> list[Completion]:
        """Return `copies` responses to each prompt, one request a prompt, as many at once as the server decodes.

        Raises UserError when a prompt leaves no room for a response, and when the server stays silent.
        """
        check_room(prompts, params)
        drawn = 1 if params.greedy else copies  # vLLM refuses greedy twins
        with self._explained(), ThreadPoolExecutor(max(1, self.settings.rows // drawn)) as pool:
            futures = [pool.submit(self._draw, prompt, params, seed, drawn)
                       for prompt, seed in zip(prompts, seeds, strict=True)]
            try:
                rows = [row for future in futures for row in future.result() * (copies // drawn)]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # one that failed is enough
            self._check_version()
        return rows

    def grow(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, streams: Sequence[int]
    ) -> RequestGrowth:
        """Rows that grow by requests; the server keeps their prefixes."""
        return RequestGrowth(self, self.stop_ids, prompts, params, streams, None)

    def refresh(self) -> None:
        """Hand the policy's weights over, or its adapter under a new name; forget the prefixes of the old ones."""
        if self.policy is None:
            return
        self.version += 1
        weights = {name: weight.to("cpu", getattr(torch, DTYPES[self.dtype]), copy=True).contiguous()
                   for name, weight in self._weights() if self.leads}  # all iterate: shares are gathered in step
        adapted = self.policy.adapted
        if self.leads:
            with self._explained():
                self._load_adapter(weights) if adapted else self._load_weights(weights)
        if adapted:
            self.model = self._adapter(self.version)
        self._agreed(None)

    def _draw(self, prompt: Sequence[int], params: SamplingParams, seed: int, copies: int) -> list[Completion]:
        """Copy k draws from seed + k: vLLM counts up from a request's seed. Its penalty counts the prompt too."""
        assert not params.no_repeat_ngram, "config.py refuses it"
        answer = self.client.completions.create(
            model=self.model, prompt=list(prompt), n=copies, seed=seed, logprobs=0 if params.logps else None,
            temperature=0.0 if params.greedy else params.temperature, top_p=params.top_p,
            max_tokens=params.room(prompt),
            extra_body={"top_k": params.top_k, "repetition_penalty": params.repetition_penalty,
                        "min_tokens": params.min_new_tokens, "return_token_ids": True,
                        "stop_token_ids": [*self.stop_ids, *params.stop_ids]})
        choices: list[Any] = sorted(answer.choices, key=lambda choice: choice.index)
        return [Completion(list(choice.token_ids), list(choice.logprobs.token_logprobs) if params.logps else [],
                           choice.finish_reason != "stop") for choice in choices]

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        assert self.policy is not None
        weights = self.policy.named_weights()
        return iter(weights) if self.policy.adapted else tied(self.policy, weights)

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        path = self.work / "vllm-weights.safetensors"
        save_file(weights, path)
        self._post("/collective_rpc", {"method": "take_weights", "args": [str(path), self._name(self.version)]})
        path.unlink()
        # Cached keys and values of the old weights would be taken for those of the new ones.
        if not self._post("/reset_prefix_cache", {}).get("success"):
            raise UserError(f"rollout: the vLLM server at {self.url} keeps prefixes of old weights, since somebody "
                            "else's requests are running there: give every run a server of its own")

    def _load_adapter(self, weights: dict[str, Tensor]) -> None:
        """A new name for every version: vLLM keeps what a name had first, and prefixes by the adapter's name."""
        assert self.policy is not None
        name, old = self._adapter(self.version), self._adapter(self.version - 1)
        folder = self.work / name
        folder.mkdir()
        write_adapter(self.policy, weights, folder)
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if self.version > 1:
            self._post("/v1/unload_lora_adapter", {"lora_name": old})
            shutil.rmtree(self.work / old)

    def _name(self, version: int) -> str:
        return f"{self.run}-{version}"

    def _adapter(self, version: int) -> str:
        return f"adapter-{self._name(version)}"

    def _check_version(self) -> None:
        """Raise UserError when a server of the user's own has been given the weights of another run meanwhile."""
        if self.settings.server_url is None or (self.policy is not None and self.policy.adapted):
            return
        wanted = self._name(self.version) if self.version else ""
        if any(version != wanted for version in self._versions()):
            raise UserError(f"rollout: the vLLM server at {self.url} holds the weights of another run: give every run "
                            f"a server of its own, or {_RESTART}")

    def _versions(self) -> list[str]:
        """What each worker was given last; nothing where the server takes no weights."""
        try:
            return list(self._post("/collective_rpc", {"method": "weights_version"})["results"])
        except NotFoundError:
            return []

    def _checked(self, start: Start) -> str:
        """The name that the server has for the model. Raises UserError when it serves another one, or a shorter one."""
        with self._explained():
            card: Any = next(iter(self.client.models.list()))
        wanted = locate(start.folder)[0]
        moving = self.policy is not None and not self.policy.adapted  # all its weights are replaced
        if not moving and Path(card.root).resolve() != Path(wanted).resolve():
            raise UserError(f"hardware.vllm.server_url: the server at {self.url} serves '{card.root}', wanted is "
                            f"'{wanted}': serve that one, or set server_url=null")
        if card.max_model_len < start.max_total_tokens:
            raise UserError(f"hardware.vllm.server_url: the server at {self.url} takes {card.max_model_len} tokens, "
                            f"wanted are {start.max_total_tokens}: start it with a larger --max-model-len")
        with self._explained():
            self._check_version() if not moving else None
        return str(card.id)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(f"{self.url}{path}", body=body, cast_to=object)

    def _agreed(self, value: Any) -> Any:
        """The first process's value, once every process has come here."""
        if not self.shared:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the client raises into one line; it has tried `retries` times with growing waits by then."""
        try:
            yield
        except OpenAIError as error:
            died = self.child.died() if self.child else ""
            if died:
                raise UserError(f"rollout: the vLLM server ended: {died}: run the same command again") from error
            text = " ".join(str(error).split())[:300]
            if isinstance(error, APIStatusError) and error.status_code < 500:
                raise UserError(f"rollout: the vLLM server at {self.url} refused: {text}: see its log, and how it must "
                                "be started in docs/vllm.md") from error
            tries = self.settings.retries + 1
            raise UserError(f"rollout: the vLLM server at {self.url} failed {tries} times ({text}): is it up? "
                            "run the same command again, or raise hardware.vllm.retries") from error


def _started(start: Start, place: Place) -> Child:
    devices = own_devices(world_size(), place.hardware.vllm) if place.hardware.kind == "gpu" else None
    return start_server(start, place.hardware.vllm, place.work.resolve(), devices, place.progress)

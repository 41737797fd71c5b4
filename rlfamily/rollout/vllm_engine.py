"""vLLM in this process: the only module that imports vllm.

Prompts go in and responses come out as token ids, so nothing is tokenised twice. Weights are handed over in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from rlfamily.hardware import VllmPlacement
from rlfamily.rollout import Completion, SamplingParams, check_room
from rlfamily.rollout.request_growth import RequestGrowth
from rlfamily.rollout.vllm_common import Start, explain, start_options, tied, write_adapter

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.models.policy import Policy

# Read when vllm is imported. Engine and worker live in this process: weights need no copy between processes, and
# nothing outlives it. Usage statistics would be sent over the network.
os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"})
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # it asks a public address for its own otherwise

import torch
import vllm
from vllm.lora.request import LoRARequest


class VllmEngine:
    """Draws with vLLM. `policy` None: from the weights in the folder, for good.

    An engine that follows a policy has its first weights after `refresh`.
    """

    def __init__(
        self, start: Start, settings: VllmPlacement, stop_ids: Sequence[int], policy: Policy | None, work: Path
    ) -> None:
        self.policy, self.settings, self.stop_ids, self.work = policy, settings, stop_ids, work
        self.adapter: LoRARequest | None = None
        self.version = 0
        self.llm = _started(start, settings, max_logprobs=-1)  # as many likely tokens as a decoder asks for
        self._sleep()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int], copies: int = 1
    ) -> list[Completion]:
        """Return `copies` responses to each prompt. Raises UserError when a prompt leaves no room for a response."""
        check_room(prompts, params)
        drawn = 1 if params.greedy else copies  # vLLM refuses greedy twins
        requests = [self._request(prompt, params, seed, drawn) for prompt, seed in zip(prompts, seeds, strict=True)]
        with self._awake():
            outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], requests,
                                        use_tqdm=False, lora_request=self.adapter) if requests else []
        return [_completion(row) for output in outputs for row in list(output.outputs) * (copies // drawn)]

    def grow(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, streams: Sequence[int]
    ) -> RequestGrowth:
        """Rows that grow by requests; vLLM keeps their prefixes."""
        return RequestGrowth(self, self.stop_ids, prompts, params, streams, self._likeliest)

    def _likeliest(
        self, rows: Sequence[Sequence[int]], params: SamplingParams, count: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest next tokens of each row at temperature 1, uncut, and their log-probs."""
        most = min(count, self.llm.llm_engine.model_config.get_vocab_size())
        request = vllm.SamplingParams(temperature=1.0, max_tokens=1, logprobs=most, detokenize=False, seed=0)
        with self._awake():
            outputs = self.llm.generate([{"prompt_token_ids": list(row)} for row in rows], request, use_tqdm=False,
                                        lora_request=self.adapter) if rows else []
        # the token drawn is told beside the likeliest ones
        best = [sorted(output.outputs[0].logprobs[0].items(), key=lambda item: item[1].rank)[:count]
                for output in outputs]
        return [[token for token, _ in row] for row in best], [[entry.logprob for _, entry in row] for row in best]

    def refresh(self) -> None:
        """Hand the policy's weights over, or its adapter as a new version; forget the prefixes of the old ones."""
        if self.policy is None:
            return
        self.version += 1
        with self._awake():
            if self.policy.adapted:
                self._adopt(dict(self.policy.named_weights()))
            else:
                # One at a time: a second copy of the model may not fit.
                weights = tied(self.policy, self.policy.named_weights())
                self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            # Cached keys and values of the old weights would be taken for those of the new ones.
            self.llm.reset_prefix_cache()

    def _adopt(self, weights: dict[str, Tensor]) -> None:
        """A new adapter under a new number: vLLM takes adapters from files only, and keeps what a number had first."""
        assert self.policy is not None
        old = self.adapter
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            write_adapter(self.policy, weights, Path(folder))
            self.adapter = LoRARequest(f"policy-{self.version}", self.version, folder)
            self.llm.llm_engine.add_lora(self.adapter)
        if old is not None:
            self.llm.llm_engine.remove_lora(old.lora_int_id)

    def _request(self, prompt: Sequence[int], params: SamplingParams, seed: int, copies: int) -> vllm.SamplingParams:
        """Copy k of a request draws from seed + k, in vLLM too, whose penalty counts the prompt as well."""
        assert not params.no_repeat_ngram, "config.py refuses it"
        return vllm.SamplingParams(
            n=copies, seed=seed, temperature=0.0 if params.greedy else params.temperature, top_k=params.top_k,
            top_p=params.top_p, repetition_penalty=params.repetition_penalty, max_tokens=params.room(prompt),
            min_tokens=params.min_new_tokens,
            stop_token_ids=[*self.stop_ids, *params.stop_ids], logprobs=0 if params.logps else None, detokenize=False)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if self.settings.sleep:
            self.llm.wake_up()
        yield
        self._sleep()

    def _sleep(self) -> None:
        """Level 1 keeps the weights in main memory: an adapter's base would be lost otherwise."""
        if self.settings.sleep:
            self.llm.sleep(level=1)


class Chooser:
    """The likeliest next token of each prompt among a few: a judge's letter."""

    def __init__(self, start: Start, settings: VllmPlacement) -> None:
        self.llm = _started(start, settings)

    def __call__(self, prompts: Sequence[Sequence[int]], allowed: Sequence[int]) -> list[int]:
        """The position in `allowed` of each prompt's token."""
        params = vllm.SamplingParams(temperature=0.0, max_tokens=1, allowed_token_ids=list(allowed), detokenize=False)
        outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False)
        return [list(allowed).index(output.outputs[0].token_ids[0]) for output in outputs]


class Scorer:
    """The logits of a classifier at the end of each row of token ids."""

    def __init__(self, start: Start, settings: VllmPlacement) -> None:
        self.llm = _started(start, settings, runner="pooling", skip_tokenizer_init=False)

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The labels' logits of each row, as the model gives them: no sigmoid, no softmax."""
        outputs = self.llm.encode([{"prompt_token_ids": list(row)} for row in rows], pooling_task="classify",
                                  pooling_params=vllm.PoolingParams(use_activation=False), use_tqdm=False)
        return [output.outputs.data.tolist() for output in outputs]


def _started(start: Start, settings: VllmPlacement, **changes: Any) -> vllm.LLM:
    options = start_options(start, settings)
    parallel = {"distributed_executor_backend": "external_launcher"} if start.shared else {}
    with _explained(options["model"]), _meeting(start.shared):
        return vllm.LLM(**{**options, **parallel, "enable_sleep_mode": settings.sleep, "skip_tokenizer_init": True,
                           **changes})


@contextmanager
def _meeting(shared: bool) -> Iterator[None]:
    """Inside, engines of several processes on CPUs meet by names of their own; collective.

    vLLM calls their shared memory the same in every run: two at once would collide, and a killed one would leave names
    in the way of the next. Once all have met the names go; the memory stays.
    """
    if not shared or torch.cuda.is_available():
        yield
        return
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    plain, run = _CPUSHMDistributed.make_group_name, os.environ.get("TORCHELASTIC_RUN_ID", os.environ["MASTER_PORT"])
    with patch.object(_CPUSHMDistributed, "make_group_name", staticmethod(
            lambda communicator: f"{plain(communicator).lstrip('/')}-{run}")):
        yield
    torch.distributed.barrier()
    for name in Path("/dev/shm").glob(f"*-{run}_*"):
        name.unlink(missing_ok=True)


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn what vLLM raises at its start into one line."""
    try:
        yield
    except Exception as error:
        raise explain(model, str(error)) from error


def _completion(row: Any) -> Completion:
    logps = [entry[token].logprob for token, entry in zip(row.token_ids, row.logprobs or (), strict=False)]
    return Completion(list(row.token_ids), logps, row.finish_reason != "stop")

"""A model behind a vLLM server, as lm-eval asks it.

lm-eval's HFLM prepares everything: templates, tokens, truncation, stop strings, the text of an
answer. Only what the model itself computes comes from the server, by token ids both ways. So a
served model is asked exactly what the loaded one is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from sweeper.evaluation.tasks import FEWSHOT_SEED, LeafTask
from sweeper.evaluation.values import short
from sweeper.foundation.cache import content_key
from sweeper.foundation.errors import BadInputError
from sweeper.records.seeds import scored_answer_seed
from sweeper.serving.likelihoods import Likelihood, read_likelihood
from sweeper.serving.reach import Reached
from sweeper.serving.replies import Reply, read_completion

_T = TypeVar("_T")
_SENT = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Generation arguments of a task, next to its stop strings and lengths, that a server takes."""
_PREPARED = ("until", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Those that lm-eval itself reads."""
_DEFAULT_TOP_K = 50
"""What transformers takes where a task that samples names none."""
_NO_NUMBER = "not JSON compliant"
"""Part of vLLM's message about log-probabilities that are not finite."""
_CHUNK = 16
"""Batches of HFLM's that are asked together, so that few requests wait for a batch's slowest."""
_ONE_MORE = 2
"""Tokens by which texts are shorter than the longest that HFLM reads: HFLM need not feed a text's
last token; a server has to, and generates another."""


@dataclass(frozen=True)
class AnsweringModel:
    """A model behind a server that holds its weights."""

    config: PretrainedConfig
    """Configuration of the model: the longest text that it reads."""
    generation_config: GenerationConfig
    """What its publisher saved with it, of which only the end tokens count."""
    reached: Reached
    """Where it answers."""


class _Unloaded(NamedTuple):
    """What HFLM asks a model for before it uses it."""

    config: PretrainedConfig
    device: torch.device = torch.device("cpu")


class ServedLM(HFLM):  # type: ignore[misc]
    """lm-eval's view of a served model; a context manager that ends its connections.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        end_ids: Token ids that end an answer.
        batch_size: Requests under way at a time, if the server may be asked as many.
        add_bos_token: As HFLM has it.

    Its methods raise:
        BadInputError: The server refuses a request.
        NoAnswerError: It does not answer.
        OtherWeightsError: It has other weights than the model's.
    """

    def __init__(
        self,
        model: AnsweringModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Sequence[int],
        batch_size: int,
        add_bos_token: bool | None,
    ) -> None:
        super().__init__(
            pretrained=_Unloaded(model.config),
            tokenizer=tokenizer,
            batch_size=_CHUNK * batch_size,
            add_bos_token=add_bos_token,
        )
        server = model.reached.server
        self._concurrency = min(batch_size, server.concurrency)
        self._client = model.reached.client(_tell)
        self._name = server.model
        extra = server.extra_body.items()
        self._extra = {name: value for name, value in extra if value is not None}
        self._ends = sorted(end_ids)
        sizes = (len(tokenizer), model.config.get_text_config().vocab_size)
        self._vocabulary = max(sizes)
        self._shorter = 0
        self._repeated: Counter[str] = Counter()

    def __enter__(self) -> ServedLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.stop()
        self._client.__exit__()

    @property
    def max_length(self) -> int:
        """Most tokens of a text."""
        return int(super().max_length) - self._shorter

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Return log-probability and greediness of each continuation."""
        with self._room_for_an_answer():
            return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Return the log-probability of each text, read in windows."""
        with self._room_for_an_answer():
            return super().loglikelihood_rolling(requests, disable_tqdm)

    @contextmanager
    def _room_for_an_answer(self) -> Iterator[None]:
        self._shorter = _ONE_MORE
        try:
            yield
        finally:
            self._shorter = 0

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of given tokens.

        ``requests`` holds triples: the texts, None for a window of a longer one, and the token ids
        of context and continuation.
        """
        jobs = []
        for number, (texts, context, continuation) in enumerate(requests, start=1):
            assert context and 0 < len(continuation) <= self.max_length
            tokens = (context + continuation)[-(self.max_length + 1) :]
            body = {
                "prompt": tokens,
                "max_tokens": 1,
                "temperature": 0.0,
                # Where 1 is asked for, the likeliest token is told from one that is as likely.
                "prompt_logprobs": 0 if texts is None else 1,
            }
            read = partial(read_likelihood, tokens=tokens, count=len(continuation))
            jobs.append(partial(self._judge, body, read, f"text {number}"))
        answers: list[Likelihood] = self._all(jobs)
        return [(one.log_probability, one.greedy) for one in answers]

    def _model_generate(
        self,
        context: Tensor,
        max_length: int,
        stop: list[str],
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return prompts with their answers: batch × length, padded on both sides.

        ``context`` and ``attention_mask`` are batch × length of the prompts, padded on the left.
        """
        assert attention_mask is not None
        width = context.shape[1]
        shared = {
            "max_tokens": max_length - width,
            "stop": stop,
            "stop_token_ids": self._ends,
            "ignore_eos": True,
            # As HFLM looks for stop strings.
            "skip_special_tokens": False,
            "return_token_ids": True,
            **sampling(options),
        }
        read = partial(read_completion, vocabulary=self._vocabulary)
        jobs = []
        for number, (row, mask) in enumerate(zip(context, attention_mask, strict=True), start=1):
            body = {"prompt": row[mask.bool()].tolist(), **shared}
            if body["temperature"]:
                body["seed"] = self._seed(body)
            jobs.append(partial(self._ask, body, read, f"prompt {number}"))
        replies: list[Reply] = self._all(jobs)
        answers = [torch.tensor(reply.tokens, dtype=torch.long) for reply in replies]
        padded = torch.nn.utils.rnn.pad_sequence(
            answers, batch_first=True, padding_value=self.tokenizer.pad_token_id
        )
        return torch.cat([context, padded], dim=1)

    def _seed(self, body: Mapping[str, Any]) -> int:
        """Return the seed of a sampled answer, another one each time that a prompt is asked."""
        key = content_key(body)
        self._repeated[key] += 1
        return scored_answer_seed(FEWSHOT_SEED, key, self._repeated[key] - 1)

    def _judge(
        self, body: Mapping[str, Any], read: Callable[[Any], Likelihood], what: str
    ) -> Likelihood:
        try:
            return self._ask(body, read, what)
        except BadInputError as error:
            # vLLM writes no JSON of what is no number: the model diverged.
            if _NO_NUMBER not in str(error):
                raise
            return Likelihood(math.nan, greedy=False)

    def _ask(self, body: Mapping[str, Any], read: Callable[[Any], _T], what: str) -> _T:
        whole = {**self._extra, "model": self._name, **body}
        return self._client.ask("completions", whole, read, what)

    def _all(self, jobs: Sequence[Callable[[], _T]]) -> list[_T]:
        """Return the results in order; after a failure nothing more is asked."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            futures = [threads.submit(job) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
                return [future.result() for future in futures]
            except BaseException:
                self._client.stop()
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _tell(line: str) -> None:
    print(line, flush=True)


def check_servable(leaves: Sequence[LeafTask]) -> None:
    """Check that servers can answer tasks as loaded models do.

    Raises:
        BadInputError: A task asks for decoding that they do not have.
    """
    for leaf in leaves:
        if leaf.task.OUTPUT_TYPE == "generate_until":
            _check_decoding(leaf.name, leaf.task.config.generation_kwargs or {})


def _check_decoding(task: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in (*_SENT, *_PREPARED) or (name, value) == ("num_beams", 1):
            continue
        raise BadInputError(
            f"{task}: generation_kwargs.{name}: expected none with evaluation.engine: vllm, whose"
            f" servers have no such setting, found {short(value)}"
        )


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a server samples as ``generate`` does with a task's generation arguments.

    What a publisher saved with a model does not count: the likeliest token is taken by default.
    """
    _check_decoding("a task", options)
    sampled = options.get("do_sample") is True
    top_k = options.get("top_k", _DEFAULT_TOP_K)
    return {
        "temperature": float(options.get("temperature", 1.0)) if sampled else 0.0,
        "top_p": float(options.get("top_p", 1.0)) if sampled else 1.0,
        "top_k": int(top_k or -1) if sampled else -1,
        "min_p": float(options.get("min_p") or 0.0) if sampled else 0.0,
        "repetition_penalty": float(options.get("repetition_penalty", 1.0)),
    }

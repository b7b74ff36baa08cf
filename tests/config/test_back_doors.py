"""What only a key of its own may allow cannot be had through another."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.config.unknown_keys import check_setting


@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust_remote_code", True),
        ("trust_remote_code", False),
        ("use_safetensors", False),
        ("weights_only", False),
        ("revision", "other"),
        ("attn_implementation", "some/kernel"),
        ("allow_all_kernels", True),
    ],
)
def test_an_arms_teacher_has_no_back_door(name: str, value: Any, searched: bool) -> None:
    key = f"teacher.init_kwargs.{name}"
    assert check_setting("gkd", key, value, searched=searched)
    assert (
        check_setting("gkd", "teacher.init_kwargs.attn_implementation", "sdpa", searched=False)
        is None
    )


def test_a_secret_is_fixed_but_not_searched_and_not_shown() -> None:
    key = "teacher.init_kwargs.token"
    assert check_setting("gkd", key, "hf_abc", searched=False) is None
    message = check_setting("gkd", key, "hf_abc", searched=True)
    assert message and "secrets are not" in message
    wrong = check_setting("gkd", key, ["plain-secret"], searched=False)
    assert wrong and "plain-secret" not in wrong

"""Seeds: every role has one of its own, and none ever changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.records import seeds


@pytest.mark.parametrize(
    ("role", "arguments", "expected"),
    [
        (seeds.trial_seed, (17, "gkd", 0), 531_730_297),
        (seeds.trial_seed, (17, "gkd", 3), 299_065_483),
        (seeds.confirmation_seed, (17, 2), 1_965_759_207),
        (seeds.sampler_seed, (17, "gkd", 3, ""), 1_302_470_755),
        (seeds.sampler_seed, (17, "gkd", 3, "lmbda"), 507_077_977),
        (seeds.teacher_seed, (17,), 2_090_214_701),
        (seeds.teacher_outputs_seed, (17,), 666_895_561),
        (seeds.student_seed, (17,), 778_194_573),
        (seeds.warm_start_seed, (17,), 2_009_663_492),
        (seeds.pair_seed, (17, "student"), 1_184_404_275),
        (seeds.verdict_seed, (17,), 1_417_093_468),
        (seeds.forest_seed, (17, "gkd"), 1_176_892_642),
        (seeds.adapter_seed, (531_730_297,), 83_532_945),
        (seeds.data_order_seed, (531_730_297,), 27_541_456),
        (seeds.dropout_seed, (531_730_297, 1), 472_611_929),
        (seeds.on_policy_seed, (531_730_297, 4), 511_627_846),
        (seeds.rollout_seed, (531_730_297, 4), 1_814_087_165),
    ],
)
def test_a_roles_seed_never_changes(
    role: Callable[..., int], arguments: tuple[int | str, ...], expected: int
) -> None:
    assert role(*arguments) == expected


def test_every_trial_has_seeds_of_its_own() -> None:
    found = {
        seed
        for study in (0, 1)
        for arm in ("gkd", "sft")
        for number in range(50)
        for seed in (
            seeds.trial_seed(study, arm, number),
            seeds.sampler_seed(study, arm, number, ""),
        )
    }
    assert len(found) == 400
    assert all(0 <= seed < 2**31 for seed in found)

"""The leak check: no prompt of a suite may be in the training data, nor in both suites.

Prompts are equal if only their white space differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import prompt_hash
from sweeper.evaluation.tasks import LeafTask, prompts
from sweeper.foundation.errors import BadInputError
from sweeper.records import PreparationSpec, SuiteSpec

_TRAINING = "the training data"
_FEW = 2
"""Most words of a text that is no question if several documents have it."""


def check_leaks(
    spec: PreparationSpec,
    examples: Sequence[Example],
    selection: Sequence[LeafTask] | None,
    test: Sequence[LeafTask] | None,
    noting: Callable[[str, str], AbstractContextManager[None]],
) -> None:
    """Check that training data, selection suite and test suite share no prompt.

    Args:
        spec: The data step's.
        examples: The training data.
        selection: The tasks of the selection suite; None if they cannot be loaded.
        test: The tasks of the test suite; None if there is none, or they cannot be loaded.
        noting: Notes a leak in a block that blames a key, instead of stopping at it.
    """
    trained = {prompt_hash(text) for example in examples for text in example.questions}
    selected: set[str] = set()
    if selection is not None:
        with noting("evaluation", "selection"):
            selected = _check_overlap(spec.suite, selection, trained, _TRAINING)
    if spec.test_suite is not None and test is not None:
        scored = [leaf for leaf in test if leaf.entry.weight]
        for leaves, others, where in (
            (test, trained, _TRAINING),
            (scored, selected, f"the suite {spec.suite.config.suite}"),
        ):
            with noting("evaluation", "test"):
                _check_overlap(spec.test_suite, leaves, others, where)


def _check_overlap(
    suite: SuiteSpec, leaves: Sequence[LeafTask], others: Collection[str], where: str
) -> set[str]:
    """Return the hashes of the prompts that the suite's score is made of.

    Raises:
        BadInputError: One of its documents asks what is among the hashes ``others``.
    """
    scored: set[str] = set()
    shared: list[str] = []
    for leaf in leaves:
        documents = list(prompts(leaf))
        standing = Counter(text for _, texts in documents for text in texts)
        for prompt, texts in documents:
            if leaf.entry.weight:
                scored.add(prompt_hash(prompt))
            # What several documents say in a word or two is an answer or a category.
            asked = (t for t in texts if standing[t] == 1 or len(t.split()) > _FEW or t == prompt)
            if any(prompt_hash(text) in others for text in asked):
                shared.append(prompt)
    if shared:
        raise BadInputError(
            f"expected prompts of its own, but {len(shared)} of the suite {suite.config.suite} are"
            f" also in {where}, for example {shared[0]!r:.120}: a score on them would measure"
            " memory. Remove them, or use other documents."
        )
    return scored

"""The steps of a study that are left to do, and those of them that can start."""

from __future__ import annotations

from collections import deque

from sweeper.config.loading import LoadedStudy
from sweeper.records import PreparationSpec, StudyInputs, SuiteSpec
from sweeper.records.layout import StudyPaths
from sweeper.study.preparation import is_needed, make_spec, with_results
from sweeper.study.preparation_order import ANSWERS, Order, Step, before, ready


class StepQueue:
    """Steps that wait for those that they need.

    A step gets the results of the steps that it needs, and of no others that happen to have ended:
    what it is told does not depend on what ran when.

    Args:
        order: The steps.
        study: The study.
        suite: The selection suite.
        paths: Files of the study.
        inputs: What jobs get before the first of these steps.
        trials_left: As in ``preparation.is_needed``.
    """

    def __init__(
        self,
        order: Order,
        study: LoadedStudy,
        suite: SuiteSpec,
        paths: StudyPaths,
        inputs: StudyInputs,
        *,
        trials_left: bool,
    ) -> None:
        self._order, self._study, self._suite, self._paths = order, study, suite, paths
        self._inputs, self._trials_left = inputs, trials_left
        self._waiting, self._done = set(order), set[Step]()
        self.ready: deque[PreparationSpec] = deque()
        """Steps that can start, first to last; the owner takes those that it starts."""

    def __bool__(self) -> bool:
        """Return True if a step has not started."""
        return bool(self._waiting or self.ready)

    def look(self) -> bool:
        """Find the steps that can start; return True if there are new ones.

        Those that an earlier run did are done, and need not run.
        """
        known = len(self.ready)
        while steps := ready(self._order, self._waiting, self._done):
            for step in steps:
                self._waiting.discard(step)
                needed = before(self._order, step)
                inputs = with_results(self._inputs, needed, self._paths)
                files = self._paths.preparation(step)
                spec = make_spec(self._study, inputs, self._suite, step, files)
                if is_needed(spec, self._paths, trials_left=self._trials_left):
                    self.ready.append(spec)
                    if step == "teacher" and ANSWERS not in self._order:
                        # It samples them again itself: those of before cost this study nothing.
                        self._paths.preparation(ANSWERS).outcome.unlink(missing_ok=True)
                else:
                    self._done.add(step)
        return len(self.ready) > known

    def ended(self, step: Step) -> None:
        """Note that a step has been completed."""
        self._done.add(step)

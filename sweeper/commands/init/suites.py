"""Suites for held-out prompts: lm-eval files that compare answers with the references."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sweeper.commands.init.local_data import HeldOut, json_lines
from sweeper.config.placeholders import FILL_IN
from sweeper.config.yaml_text import commented, yaml_text

_SHORT = 5
"""Most words of an answer that is compared literally."""
_CHARACTERS_PER_TOKEN = 3
"""Fewer than usual, to leave room."""

_HEAD = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    # Relative to this file.
    test: ../held-out.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{target}"
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {tokens}
"""

_MARKED = """\
# The result is what follows the last ####, as in GSM8K; the steps before it are the way there.
filter_list:
  - name: result
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "####\\\\s*([^#\\\\n]*[^#\\\\s])"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: [",", "\\\\$", "\\\\.$"]
"""

_LITERAL = """\
# The whole answer must be the reference, whatever its case and punctuation.
filter_list:
  - name: result
    filter:
      - function: regex
        regex_pattern: "(?s)^\\\\s*(.*?)\\\\s*$"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""

_OVERLAP = """\
# How many words the answer has in common with the reference: a stand-in. Long answers can be good
# in many ways; a task that asks for what matters to you is better.
process_results: !function overlap.process_results
metric_list:
  - metric: word_f1
    aggregation: mean
    higher_is_better: true
"""

_OVERLAP_CODE = r'''"""The F1 of an answer's words against the reference's, as in SQuAD."""

import re
from collections import Counter


def process_results(doc, results):
    """The F1 between 0 and 1, words counted as often as they stand in both."""
    texts = (results[0], doc["completion"])
    answer, reference = (re.findall(r"\w+", text.lower()) for text in texts)
    common = sum((Counter(answer) & Counter(reference)).values())
    return {"word_f1": 2 * common / max(1, len(answer) + len(reference))}
'''


def answer_tokens(answers: Sequence[str]) -> int:
    """Return a limit that nearly all answers fit into: 64, 128, … up to 1024 tokens."""
    lengths = sorted(map(len, answers))
    characters = lengths[int(0.95 * (len(lengths) - 1))]
    tokens = max(1.0, characters / _CHARACTERS_PER_TOKEN)
    return int(min(1024, max(64, 2 ** math.ceil(math.log2(tokens)))))


def held_out_files(task: str, held: HeldOut) -> dict[str, str]:
    """Return a selection and a test suite with their task and its documents, by path."""
    answers = [answer for _, answer in (*held.selection, *held.test)]
    documents = [{"prompt": p, "completion": c} for p, c in (*held.selection, *held.test)]
    target, body, metric = "{{completion}}", _LITERAL, "exact_match"
    files = {"held-out.jsonl": json_lines(documents)}
    if all("####" in answer for answer in answers):
        target, body = "{{completion.split('####')[-1].strip()}}", _MARKED
    elif sum(len(answer.split()) <= _SHORT for answer in answers) < 0.9 * len(answers):
        body, metric = _OVERLAP, "word_f1"
        files["tasks/overlap.py"] = _OVERLAP_CODE
    head = _HEAD.format(task=task, target=target, tokens=answer_tokens(answers))
    files["tasks/held-out.yaml"] = head + body + "num_fewshot: 0\nmetadata:\n  version: 1.0\n"
    middle, end = len(held.selection), len(documents)
    for role, (first, last) in (("selection", (0, middle)), ("test", (middle, end))):
        suite = {
            "suite": f"{task[:50]}-{role}",
            "tasks": [{"task": task, "documents": [first, last], "metric": metric}],
        }
        files[f"{role}.yaml"] = yaml_text(suite)
    return files


def placeholder_suites(study: str) -> dict[str, str]:
    """Return a selection and a test suite for the user to complete, by path."""
    text = commented(
        f"{FILL_IN}: lm-eval's name of a task that measures what you distil, or of one in tasks/.\n"
        "Training, selection and test must share no prompt: ranges of documents keep them apart."
    )
    files = {}
    for role, documents in (("selection", [0, 200]), ("test", [200, 600])):
        suite = {
            "suite": f"{study[:50]}-{role}",
            "tasks": [{"task": f"{FILL_IN}-TASK", "documents": documents}],
        }
        files[f"{role}.yaml"] = text + yaml_text(suite)
    return files

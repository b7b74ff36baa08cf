"""The model card of an exported student: use, scores, training, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sweeper.analysis.comparison import compare
from sweeper.analysis.verdict import verdict_of
from sweeper.analysis.verdict_records import Verdict
from sweeper.analysis.winner import Winner
from sweeper.config.settings import model_settings
from sweeper.config.yaml_text import yaml_text
from sweeper.foundation.secrets import redact
from sweeper.records import Outcome, Scores
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.reproduction import fingerprints, utc
from sweeper.reporting.text import formatting
from sweeper.reporting.text.headline import verdict_headline
from sweeper.reporting.text.markdown_escape import (
    as_yaml,
    cell,
    code,
    facts,
    fenced,
    inline,
    table,
)
from sweeper.reporting.text.server_costs import shares

_Z = 1.96
"""Half the width of a 95 % interval in standard errors."""


def model_card(
    record: StudyRecord,
    winner: Winner,
    outcome: Outcome,
    *,
    base: str | None,
    teacher: str,
    adapter: bool,
    repeated: str,
) -> str:
    """Build the card as Markdown, with the metadata that the Hugging Face hub reads.

    ``outcome`` is of the training that made the weights, with the scores of the saved student.
    ``base`` is the model that the student was trained from, if it is public. ``repeated`` compares
    the scores with the recorded ones.
    """
    verdict = verdict_of(record, compare(record).best_gkd)
    sections = [
        f"---\n{yaml_text(_metadata(record, winner, outcome, base, adapter))}---",
        f"# {inline(f'{record.study}: {winner.arm}')}",
        _summary(record, winner, base, teacher),
        *_use(record.config["student"], adapter, outcome.scores),
        *_scores(record, outcome, verdict, winner, adapter, repeated),
        *_training(record, winner, outcome),
        *_provenance(record, winner, outcome),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(
    record: StudyRecord, winner: Winner, outcome: Outcome, base: str | None, adapter: bool
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if base is not None:
        metadata["base_model"] = base
        metadata["base_model_relation"] = "adapter" if adapter else "finetune"
    metadata["pipeline_tag"] = "text-generation"
    tags = ["distillation", winner.method.replace("_", "-"), "trl", "sweeper"]
    metadata["tags"] = list(dict.fromkeys(tags))
    if record.data is not None and not record.data.local:
        metadata["datasets"] = [record.config["data"]["train"]["path"]]
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": scores.suite, "type": scores.suite},
            "metrics": [{"type": _metric(scores), "value": scores.score, "name": role}],
        }
        for role, scores in (
            ("selection suite", outcome.scores),
            ("test suite", outcome.test_scores),
        )
        if scores is not None
    ]
    metadata["model-index"] = [{"name": f"{record.study}-{winner.arm}", "results": results}]
    return metadata


def _metric(scores: Scores) -> str:
    names = {task.metric for task in scores.tasks if task.weight}
    return names.pop() if len(names) == 1 else "mean"


def _summary(record: StudyRecord, winner: Winner, base: str | None, teacher: str) -> str:
    student = code(base or record.config["student"]["model"])
    verb = {"sft": "fine-tuned on reference answers in a comparison with distillation from"}
    how = verb.get(winner.method, f"distilled ({winner.method}) from")
    return (
        f"{student}, {how} {code(teacher)}. It is the arm {code(winner.arm)} of the study"
        f" {code(record.study)}, chosen {inline(winner.why)}."
    )


def _use(student: dict[str, Any], adapter: bool, scores: Scores | None) -> Iterator[str]:
    """Yield how to load it: as it was loaded to be scored."""
    yield "## Use"
    remote = ", trust_remote_code=True" if student.get("trust_remote_code") else ""
    options = f', dtype="{scores.dtype}"' if scores and scores.dtype else ""
    for name in ("attn_implementation", "quantization_config"):
        if (value := (student.get("init_kwargs") or {}).get(name)) is not None:
            options += f", {name}={json.dumps(value) if isinstance(value, str) else repr(value)}"
    names, loader, before = ["AutoModelForCausalLM", "AutoTokenizer"], "AutoModelForCausalLM", []
    lines = []
    if adapter:
        names, loader = ["AutoTokenizer", "GenerationConfig"], "AutoPeftModelForCausalLM"
        lines.append("from peft import AutoPeftModelForCausalLM")
        before.append("# Loads the base, too.")
        if quantization := student.get("quantization"):
            names.insert(1, "BitsAndBytesConfig")
            before.insert(0, f"quantized = {_quantized(quantization, student, scores)}")
            options += ", quantization_config=quantized"
    lines += [
        f"from transformers import {', '.join(names)}",
        "",
        *before,
        f'model = {loader}.from_pretrained("PATH"{options}{remote})',
        # PEFT leaves that of the base, which may ask for samples.
        *(['model.generation_config = GenerationConfig.from_pretrained("PATH")'] * adapter),
        f'tokenizer = AutoTokenizer.from_pretrained("PATH"{remote})',
    ]
    yield fenced("\n".join(lines), "python")
    yield (
        "Prompts go through `tokenizer.apply_chat_template(…, add_generation_prompt=True)`, as in"
        " training."
    )


def _quantized(quantization: str, student: dict[str, Any], scores: Scores | None) -> str:
    """Return how the base is rounded below the adapter, as code."""
    if quantization == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)"
    own = student.get("dtype", "auto")
    dtype = (scores.dtype if scores else None) or ("bfloat16" if own == "auto" else own)
    return (
        'BitsAndBytesConfig(\n    load_in_4bit=True, bnb_4bit_quant_type="nf4",'
        f' bnb_4bit_compute_dtype="{dtype}"\n)'
    )


def _scores(
    record: StudyRecord,
    outcome: Outcome,
    verdict: Verdict | None,
    winner: Winner,
    adapter: bool,
    repeated: str,
) -> Iterator[str]:
    yield "## Scores"
    ends = (record.teacher, record.starting_student)
    rows = [_score_row("selection", outcome.scores, ends)]
    if outcome.test_scores is not None:
        test = record.test
        on_test = (test.teacher, test.starting_student) if test else (None, None)
        rows.append(_score_row("test", outcome.test_scores, on_test))
    yield table(["suite", "this model", "teacher", "starting student"], rows, left=(0,))
    if outcome.scores and outcome.scores.engine == "vllm":
        yield (
            f"All models were scored in {outcome.scores.dtype}, by lm-eval through vLLM servers"
            " that had their weights."
        )
    elif dtype := outcome.scores.dtype if outcome.scores else None:
        path = "pretrained=BASE,peft=PATH" if adapter else "pretrained=PATH"
        yield (
            f"All models were scored in {dtype}, by lm-eval with `--model_args"
            f" {path},dtype={dtype},softmax_dtype=float32`."
        )
    yield (
        "Intervals (95 %) cover other documents. The selection suite chose these settings, so its"
        f" score is optimistic. {inline(repeated)}"
    )
    if outcome.test_scores is not None:
        yield "The score on the test suite is the recorded training's: that suite is read once."
    if verdict is not None:
        yield f"**{inline(verdict_headline(verdict))}**"
        for mean in (arm.test for arm in verdict.at("steps") if arm.arm == winner.arm):
            seeds = "1 seed" if mean.seeds == 1 else f"{mean.seeds} seeds, on average"
            yield (
                f"These settings on the test suite, with {seeds}: {mean.mean:.3f} ({mean.low:.3f}"
                f" to {mean.high:.3f}) (95 % over seeds and documents)."
            )


def _score_row(role: str, scores: Scores | None, ends: Sequence[Outcome | None]) -> list[str]:
    suite = cell(f"{scores.suite if scores else ''} ({role})")
    return [suite, _interval(scores), *(_interval(end.scores if end else None) for end in ends)]


def _interval(scores: Scores | None) -> str:
    if scores is None:
        return formatting.NOTHING
    reach = _Z * scores.stderr
    return f"{scores.score:.3f} ({scores.score - reach:.3f} to {scores.score + reach:.3f})"


def _training(record: StudyRecord, winner: Winner, outcome: Outcome) -> Iterator[str]:
    yield "## Training"
    cost = outcome.cost
    rows = {
        "method": winner.method,
        "optimiser steps": f"{cost.steps:,}",
        "tokens trained / sampled": formatting.tokens(cost),
        "device": f"{outcome.device}, {formatting.seconds(cost.device_seconds)} s with scoring",
        "parameters": formatting.count(outcome.model_parameters or 0),
    }
    job = winner.final or winner.trial
    if job.outcome is not None and (servers := job.outcome.cost.servers):
        rows["servers"] = f"{shares(servers)} device-seconds, its share in the study"
    if lora := record.config["student"].get("lora"):
        changes = model_settings("lora", winner.trial.params)
        rows["adapter"] = formatting.settings({**lora, **changes})
    if record.data is not None:
        data = record.data
        rows["data"] = f"{code(redact(data.source))}, {data.used:,} of {data.rows:,} rows"
    yield facts(rows)
    arms = sum(len(arm.trials) for arm in record.arms)
    yield f"These settings were chosen among {arms:,} trials in {len(record.arms)} arms:"
    yield fenced(as_yaml(winner.trial.settings), "yaml")


def _provenance(record: StudyRecord, winner: Winner, outcome: Outcome) -> Iterator[str]:
    yield "## Provenance"
    provenance, trial = record.provenance, f"{winner.arm} #{winner.trial.number}"
    if winner.final is not None:
        trial += f", retrained with new seed {winner.final.final.seed}"
    rows = {
        "trial": trial,
        "trained": utc(outcome.finished),
        "command of the study": code(redact(provenance.command)),
        "git revision": provenance.git_revision or "none",
        "versions": ", ".join(f"{name} {text}" for name, text in outcome.versions.items()),
    }
    yield facts(rows | fingerprints(provenance))
    study = fenced(as_yaml(record.config), "yaml")
    yield f"<details><summary>The study</summary>\n\n{study}\n\n</details>"

"""Training on a GPU, measured by one command: ``python -m benchmarks.gpu --json FILE``.

It needs torch, transformers and the libraries of ``needs``; no hub and no network. Models are made
on the spot: random weights in the shapes of Qwen2.5, and the built-in adder. First come the tests
marked ``gpu``. Then the engines take turns:

- ``ours``: sweeper's engine;
- ``distillation_trainer``: TRL's ``DistillationTrainer``;
- ``stock_tuned``: TRL's ``GKDTrainer`` without checkpointing and with a key-value cache.

All train the same float32 student by the same bfloat16 teacher, in bfloat16 autocast and with the
fused optimiser. Turns come in order of importance and end with the time (``--seconds``): what finds
no time is reported as left out. Every turn is written when it ends. ``--table FILE`` prints the
tables of ``docs/speed.md``.

``plan`` says what is measured, ``budget`` what there is time for, ``turns`` measures, ``report``
shows.
"""

"""Models and tokenizers: loading, adapters, quantization, layer dropping, saving.

How a model reads and what it can read belongs here; what it learns from does not.
Start with ``loading.load_model``.
"""

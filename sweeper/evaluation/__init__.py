"""lm-eval: a suite goes in, scores and per-document records come out."""

"""Tools that know nothing of distillation: errors, secrets, cache, disk, retries, files, databases.

What names an arm, a trial or a model belongs higher up. Start with ``errors``, the tree of all
errors, and ``cache``, which trials and studies share.
"""

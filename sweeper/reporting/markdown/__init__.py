"""The report as Markdown, section by section, and the model card.

Sections yield Markdown; sentences belong to ``text``, cells to ``tables``, figures to ``plots``.
Start at ``report``, which has the order of the page.
"""

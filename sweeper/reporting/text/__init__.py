"""Words and numbers, shared by terminal, report and JSON.

Sentences and formats belong here, layout does not: that is ``tables`` and ``markdown``. Start at
``headline``, the sentences that lead a report.
"""

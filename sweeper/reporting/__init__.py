"""What people read of a study: functions that return what callers print.

Terminal views, ``report.md``, plots and JSON belong here; statistics belong to ``analysis``. Start
at ``report_data`` (what a report is made from), then ``markdown/report`` (the page) and ``summary``
(the terminal).
"""

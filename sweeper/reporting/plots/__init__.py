"""Plots of a report: functions that return matplotlib figures.

Drawing belongs here; ``markdown`` decides which plots a report shows and what it says of them.
Start at ``search`` or ``verdict``; ``style`` is the common look.
"""

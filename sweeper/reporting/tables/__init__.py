"""Tables of the terminal; the report takes its cells from here.

Rows and columns belong here, sentences belong to ``text``. Start at ``comparison`` (the search) or
``verdict`` (the test suite); ``grids`` fits a table to a terminal.
"""

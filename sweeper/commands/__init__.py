"""What each ``sweeper`` command does, one module or package each; ``cli`` parses the arguments.

What belongs here: the opening, use and closing of everything that a command needs. Not here: the
loop of a study (``study``) and what people read (``reporting``). Start with ``run``.
"""

"""What runs inside a server, in its own interpreter, which need not have sweeper.

The server finds these modules by ``PYTHONPATH``; they import the standard library only.
"""

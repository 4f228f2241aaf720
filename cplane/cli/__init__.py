"""The operator's command line: every command is one call to an agent, printed.

A composition root: it may import everything below, and does so inside commands, because `--help` must be
quick. Nothing imports it.
"""

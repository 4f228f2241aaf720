"""The vocabulary: what each noun is, and arithmetic on it.

May import the standard library and `cplane.errors`; nothing else.
"""

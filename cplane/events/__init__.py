"""Facts, for ever: frozen structs with only values of a stable text form.

May import msgspec and `cplane.domain` values; must not import deciders or anything that reads the world.
A released event is never edited: a new field has a default, everything else is a new version with an upcaster.
Events hold nothing that could lead back to them, so the garbage collector need not look (`gc=False`).
"""

"""Map layouts and the memory map; pure, may import the standard library and `datapath.errors` only.

C owns the layouts; the twins here prove themselves against it.
"""

"""Records from kernel to user: their bytes and names.

Pure; may import numpy, because records come in batches, and `datapath.maps`.
"""

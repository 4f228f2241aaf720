"""What tables should contain: folds of events into map rows, incremental by default.

May import events, domain and `datapath.maps` (layouts only); must not import deciders or read the world.
"""

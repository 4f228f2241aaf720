"""Questions about another time: what was so at a position of the log, and what made it so.

Pure: it may import projections, reactors and deciders, and everything below them, and of `datapath` the layouts only.
It must not read a clock, a file or a database: logs come as a `history.Reader`, and times as numbers.
"""

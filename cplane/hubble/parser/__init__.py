"""Kernel records to rows of the flow ring, a batch at a time.

May import `cplane.domain`, `cplane.hubble.{ring,store,interned,endpoint,attribution}` and `datapath.notify`; must
not import filters, the observer or anything that waits.
"""

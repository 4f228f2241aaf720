"""Kernel records to rows of the flow ring, a batch at a time: our programs' in `threefour`, Cilium's in `samples`.

May import `cplane.domain`, `cplane.hubble.{ring,store,interned,endpoint,attribution,detail,eventring}`, `cplane.pb` and
`datapath.notify`; must not import filters, the observer or anything that waits.
"""

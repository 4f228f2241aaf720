"""The kernel's side: bpf(2), maps, programs, links, ring buffer. The only home of bcc (in `worker`, another process).

May import datapath.errors, maps, notify, source and numpy; must not import pyroute2 or anything that drives it
(targets, gc), and never a control plane.
"""

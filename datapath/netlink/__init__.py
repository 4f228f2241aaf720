"""Links, addresses, routes and namespaces; the only home of pyroute2.

pyroute2 is used as the codec of rtnetlink messages. The socket is ours (`rtnl.py`): several messages travel
in one send, errors come back per message, and any thread may use it, in the network namespace that the
thread is in. [pyroute2's IPRoute: an event loop per thread, 2.4 times slower for what a pod needs.]

Everything we make carries a mark by which a process with no memory knows it: links the group `LINK_GROUP`
from the instant of their creation and an alias that says whose they are, routes the protocol
`ROUTE_PROTOCOL`.

May import `datapath.errors`; must not import `datapath.kernel`. `attachment` and `memory` are pure values
and need neither pyroute2 nor privileges.
"""

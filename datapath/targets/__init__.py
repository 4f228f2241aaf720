"""What a control plane drives: tables of the kernel, by the shape of its Target port.

May import datapath.kernel and datapath.maps; must not import the control plane, whose port it fits without knowing it.
"""

"""datapath: a library about the kernel that has never heard of a control plane."""

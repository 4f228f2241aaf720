"""What all our command lines share.

May import click; must not import anything of cplane but `cplane.errors`, and nothing that makes `--help` slow.
"""

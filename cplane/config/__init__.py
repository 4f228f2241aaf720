"""Configuration: file, environment and flags become one frozen model, checked once; and strict YAML.

May import `cplane.errors`, PyYAML, click and the standard library; must not import the core or edges.
"""

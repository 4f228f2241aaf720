"""What may happen: `decide(command, state) → events | refusal`, and the immutable states that events fold into.

May import events and domain; must not import projections, the datapath or anything that reads the world.
"""

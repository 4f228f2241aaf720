"""The administration of an agent over gRPC: messages become commands, state becomes messages.

May import the engine's commands and everything below; meets the engine and the agent only by the shapes in
`ports`. Must not import `cplane.hubble` or a composition root.
"""

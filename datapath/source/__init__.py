"""C text before a compiler sees it: defines and content addresses. Pure; may import the standard library only."""

"""What must follow: a fact leads to further commands, decided and logged together with it.

Pure, like deciders; may import events, domain and the commands of deciders' nouns; must not read the world.
"""

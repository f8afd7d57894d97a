"""What runs inside SGLang's process, in SGLang's interpreter. Nothing here is imported by engineroom: it is run by path.

``launch.py`` starts the server and sees to it that it ends with its parent; ``contract.py`` changes, through SGLang's own
plugin hooks, what SGLang means otherwise than engineroom's contract.
"""

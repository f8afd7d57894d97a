"""The OpenAI-compatible server: HTTP in front of one :class:`~engineroom.chat.ChatModel`.

It runs on the model's own event loop, so a token goes from the engine to the socket without changing threads.
``settings`` is what can be set, ``app`` joins the rest: ``wire`` (what bodies look like), ``convert`` (wire to values and
back; pure functions), ``routes`` (one file for each family of paths). ``run`` puts the app on a port.
"""

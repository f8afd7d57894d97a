"""The interactive terminal: ``engineroom chat`` without a prompt.

``session`` holds the conversation and asks the model, ``commands`` are what a slash begins; neither knows a terminal.
``prompt`` reads from one, ``screen`` writes to one, and ``loop`` joins the four.
"""

"""How the shipped models are made: ``python -m engineroom.demo.train``."""

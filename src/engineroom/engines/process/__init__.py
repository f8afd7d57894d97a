"""What engines in processes of their own share: where their words go, and how their processes end."""

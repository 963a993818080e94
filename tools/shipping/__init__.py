"""From recipes to a channel: what `tools/release.py` does, in parts that tests use too."""

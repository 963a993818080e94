"""The names of spconv: after `import spconv_lite.compat`, `import spconv.pytorch as spconv` gives
this package, unless spconv itself is installed."""

from .finder import install, uninstall

__all__ = ["install", "uninstall"]

install()

"""From a finished run to a bundle that a server can score with, and back from the bundle to scores."""

from unimixer.export.bundle import Bundle, open_bundle
from unimixer.export.write import export_run

__all__ = ["Bundle", "export_run", "open_bundle"]

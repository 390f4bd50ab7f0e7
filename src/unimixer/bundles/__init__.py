"""Write a finished run as a bundle that a server can score with, or as a delta of one, and open the bundle."""

from unimixer.bundles.bundle import Bundle, open_bundle
from unimixer.bundles.delta import apply_delta, export_delta
from unimixer.bundles.write import ExportOptions, export_run

__all__ = ["Bundle", "ExportOptions", "apply_delta", "export_delta", "export_run", "open_bundle"]

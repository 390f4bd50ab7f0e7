"""Write a finished run as a bundle that a server can score with, and open the bundle."""

from unimixer.export.bundle import Bundle, open_bundle
from unimixer.export.write import ExportOptions, export_run

__all__ = ["Bundle", "ExportOptions", "export_run", "open_bundle"]

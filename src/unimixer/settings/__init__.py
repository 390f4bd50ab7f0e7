"""Read typed settings from YAML: one reader and one parser for schemas, recipes and studies."""

from unimixer.settings.document import Document, copied, load_yaml, read_yaml
from unimixer.settings.model import Settings, annotated_yaml, dump_yaml, models_in, origins_of, parse
from unimixer.settings.overrides import Change, check_distinct, override, parse_scalar, read_change, read_changes
from unimixer.settings.packaged import find_settings, packaged_files

__all__ = [
    "Change",
    "Document",
    "Settings",
    "annotated_yaml",
    "check_distinct",
    "copied",
    "dump_yaml",
    "find_settings",
    "load_yaml",
    "models_in",
    "origins_of",
    "override",
    "packaged_files",
    "parse",
    "parse_scalar",
    "read_change",
    "read_changes",
    "read_yaml",
]

"""A config file: read, checked against its schema, written anew; imports no ML library."""

from modelforge.configfile.load import load_config

__all__ = ["load_config"]

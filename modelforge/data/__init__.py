"""The data room: read, recognise, normalise, check and preview; see `load_data`.

Nothing here imports torch, transformers or datasets before it is called.
"""

from modelforge.data.convert import DataKind
from modelforge.data.fingerprint import fingerprint
from modelforge.data.ledger import Ledger
from modelforge.data.load import Data, load_data
from modelforge.data.output import write_normal_form
from modelforge.data.preview import preview
from modelforge.data.template import TemplateChoice, built_in_templates, load_tokenizer_template
from modelforge.data.tokens import tokenize

__all__ = [
    "Data",
    "DataKind",
    "Ledger",
    "TemplateChoice",
    "built_in_templates",
    "fingerprint",
    "load_data",
    "load_tokenizer_template",
    "preview",
    "tokenize",
    "write_normal_form",
]

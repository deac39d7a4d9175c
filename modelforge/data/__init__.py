"""The data room: read, recognise, normalise, check and preview; see `read_rows`.

Nothing here imports torch, transformers or datasets before it is called.
"""

from modelforge.data.check import LongRows
from modelforge.data.convert import DataKind
from modelforge.data.fingerprint import fingerprint
from modelforge.data.ledger import Ledger
from modelforge.data.load import load_data, read_rows
from modelforge.data.output import write_normal_form
from modelforge.data.places import Watched
from modelforge.data.preview import Segment, preview, token_texts
from modelforge.data.rows import Data, Rows
from modelforge.data.special import keep_prompts_open
from modelforge.data.template import TemplateChoice, built_in_templates, load_tokenizer_template
from modelforge.data.tokens import How

__all__ = [
    "Data",
    "DataKind",
    "How",
    "Ledger",
    "LongRows",
    "Rows",
    "Segment",
    "TemplateChoice",
    "Watched",
    "built_in_templates",
    "fingerprint",
    "keep_prompts_open",
    "load_data",
    "load_tokenizer_template",
    "preview",
    "read_rows",
    "token_texts",
    "write_normal_form",
]

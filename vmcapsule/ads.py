"""ClassAds in and out: one ad, several, and the frames that HTCondor's hooks are sent.

The text form is HTCondor's *long form*, one ``Attr = expr`` a line, as ``condor_q -long``,
``condor_submit -dump`` and the JobRouter's hooks write and read it.  In its strings a
backslash is an ordinary character unless it stands before a double quote.  An ad in
brackets ("new form", where backslashes escape as in C) is read too and turned into long
form.  An expression that nobody touches is printed as it was read, character for
character: ClassAds judges and evaluates expressions here, it never rewrites them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence, Union

from vmcapsule import classad_text as lex
from vmcapsule.errors import AdError, ToolError

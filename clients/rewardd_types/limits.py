"""The bounds of the wire. Every list, string, integer and free-form field has one.

They stop a request from costing more than it may before any work starts; what a *model* can read
is bounded by its own context length, which its manifest states.
"""

from typing import Annotated

from msgspec import Meta

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_TEXT_CHARS = 8_000_000
MAX_TOKENS = 1_000_000
MAX_GROUPS = 1_024
MAX_RESPONSES = 4_096
MAX_MESSAGES = 1_024
MAX_STEPS = 2_048
MAX_CRITERIA = 128
MAX_ITEMS = 64
MAX_EXTRA_BYTES = 256 * 1024
MAX_EXTRA_DEPTH = 16

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
Logprob = Annotated[float, Meta(ge=-1e6, le=1e-3)]
Weight = Annotated[float, Meta(ge=-1e6, le=1e6)]
Texts = Annotated[list[Text], Meta(max_length=MAX_ITEMS)]

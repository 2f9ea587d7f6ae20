"""Names of the records in a Flower message. Flower carries the bytes; it does not know what they mean.

order   content["plan"]["json"]: bytes of a signed `Plan`; content["weights"]["bytes"]: uint8 array, tensors
answer  content["answer"]["bytes"]: uint8 array, an envelope (`common.security.envelope`) around an answer
"""

from __future__ import annotations

PLAN, PLAN_KEY = "plan", "json"
WEIGHTS, ANSWER, BYTES_KEY = "weights", "answer", "bytes"

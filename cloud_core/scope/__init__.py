"""SCOPE: crystals as short strings, exact to the published encoding and canonical beside it."""

from cloud_core.scope.canonical import canonicalise, equivalent
from cloud_core.scope.encoder import Scope, encode, encode_all
from cloud_core.scope.grammar import Parts, ScopeError, decode
from cloud_core.scope.resolved import resolve
from cloud_core.scope.settings import EncoderSettings, fingerprint
from cloud_core.scope.tokenizer import Tokenizer

__all__ = [
    "EncoderSettings",
    "Parts",
    "Scope",
    "ScopeError",
    "Tokenizer",
    "canonicalise",
    "decode",
    "encode",
    "encode_all",
    "equivalent",
    "fingerprint",
    "resolve",
]

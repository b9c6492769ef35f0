"""How a namespace is written down beside the objects stored in it, and how another one differs from it."""

from dataclasses import replace
from hashlib import blake2b

import msgspec

from tiercel.types import Namespace

_FIELDS = {"weights": "other weights", "network": "other settings of the network", "numerics": "other arithmetic"}


def write_description(namespace: Namespace) -> bytes:
    """JSON: its fields, the tenant's salt as a digest only."""
    return msgspec.json.encode(replace(namespace, tenant=_digest(namespace.tenant)))


def read_description(description: bytes, tenant: str) -> Namespace | None:
    """A namespace of the same tenant; None where it is another tenant's or the text is no description."""
    try:
        namespace = msgspec.json.decode(description, type=Namespace)
    except msgspec.DecodeError:
        return None
    return replace(namespace, tenant=tenant) if namespace.tenant == _digest(tenant) else None


def difference(one: Namespace, other: Namespace) -> str:
    """What tells two namespaces apart, for people."""
    parts = [text for field, text in _FIELDS.items() if getattr(one, field) != getattr(other, field)]
    return " and ".join(parts) or "another format version"


def _digest(tenant: str) -> str:
    """Tells tenants apart without naming them; empty for the engine that has none."""
    salt = tenant.encode(errors="surrogatepass")
    return blake2b(salt, digest_size=8, person=b"tiercel tenant").hexdigest() if tenant else ""

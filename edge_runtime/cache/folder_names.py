"""Names the folders of caches."""

import re

from edge_runtime.contract.cache_format import CACHE_DTYPES
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.messages import CacheDtype

ENCRYPTED = "-encrypted"
FOLDER_NAME = re.compile(rf"([0-9a-f]{{64}})-({'|'.join(CACHE_DTYPES)})({ENCRYPTED})?")


def folder_name(backbone_digest: str, dtype: CacheDtype, *, encrypted: bool = False) -> str:
    """Name of a cache's folder.

    Raises:
        BadInputError: the digest is not one; it may come from a peer and must not be a path.
    """
    name = f"{backbone_digest}-{dtype}{ENCRYPTED if encrypted else ''}"
    if not FOLDER_NAME.fullmatch(name):
        raise BadInputError(
            f"backbone digest {backbone_digest[:80]!r} is not 64 hexadecimal digits"
        )
    return name

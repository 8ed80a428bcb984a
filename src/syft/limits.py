"""Every bound in one table."""

from __future__ import annotations

from typing import Final

# fmt: off
# name                                what is bounded
MAX_ID: Final = 2**63 - 1           # an object's id
MAX_FRAME_BYTES: Final = 4 << 30    # one frame of an encoded message (a tensor's memory)
MAX_FRAMES: Final = 1024            # frames of one message
MAX_HEADER_BYTES: Final = 16 << 20  # the first frame, everything but tensors' memory
MAX_DIMS: Final = 64                # dimensions of a tensor
MAX_ELEMENTS: Final = 2**58         # elements of a tensor, and of the memory that it is a view of
MAX_NESTING: Final = 16             # lists within lists
MAX_NAME_LENGTH: Final = 256        # a worker's, operator's, user's or keyword's name
MAX_TAGS: Final = 64                # tags of one object
MAX_TAG_LENGTH: Final = 256         # characters of a tag
MAX_DESCRIPTION_LENGTH: Final = 65536  # characters of a description
MAX_RESULTS: Final = 65536          # results of one operator
MAX_FATES: Final = 4096             # objects whose end a worker still remembers, for error messages

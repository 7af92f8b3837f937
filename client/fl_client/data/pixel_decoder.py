"""A process that decodes compressed frames and can be killed: ``python -m fl_client.data.pixel_decoder BYTES SECONDS``.

Reads jobs as JSON from standard input, writes BYTES of pixels to standard output: frame after frame, little-endian, in
the declared type. Anything else, a crash of a native library included, ends it with a code that is not 0.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from fl_shared.processes import end_with_parent

MAX_MEMORY = 6 * 1024**3

COMPRESSED = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
"""Transfer syntax -> the library that decodes it. Of two, the one that bears damage better."""


def limit(size: int, seconds: int) -> None:
    """Bound this process's output (bytes), time (seconds), memory; no core file, as it would hold pixels."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def decode(job: dict[str, Any]) -> None:
    """Write the frames ``numbers`` of the file ``path``, whose Pixel Data begin at ``offset``."""
    with open(job["path"], "rb") as file:  # noqa: PTH123
        file.seek(job["offset"])
        value = file.read()
    decoder = get_decoder(uid.UID(job["syntax"]))
    plugin, dtype = COMPRESSED[uid.UID(job["syntax"])], np.dtype(job["dtype"])
    frames = decoder.iter_array(value, indices=job["numbers"], raw=True, decoding_plugin=plugin, **job["options"])
    for values, _ in frames:
        declared = values.astype(dtype)
        if not np.array_equal(declared, values):
            raise ValueError("the stream holds other numbers than the header declares")
        sys.stdout.buffer.write(declared.tobytes())


if __name__ == "__main__":
    end_with_parent()
    limit(int(sys.argv[1]), int(sys.argv[2]))
    for each in json.load(sys.stdin):
        decode(each)
    sys.stdout.buffer.flush()

"""Images that come in: limits, decoding, and as tensors. Only `tensors` needs torch."""

"""Jobs in Redis as the gateway sees them."""

"""`penstock bench`: load on the HTTP API, as clients see it."""

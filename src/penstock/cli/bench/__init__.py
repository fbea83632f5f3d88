"""`penstock bench`: puts load on the HTTP API and measures what its clients see."""

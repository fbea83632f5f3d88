"""Events on their way back to the API process that serves the client."""

"""The way back: events to the API process that holds the client."""

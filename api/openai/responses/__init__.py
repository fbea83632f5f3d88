"""/v1/responses: stored answers, in the background and streamed again."""

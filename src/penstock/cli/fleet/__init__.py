"""`penstock up`: Redis, workers and the API as child processes of one command."""

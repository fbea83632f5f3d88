"""What every request passes through, whatever protocol it speaks."""

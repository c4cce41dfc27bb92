"""What a trained model is good for, whatever its items are: variations, the way to noise and back, ways between."""

"""What is the same, or nearly, as what came before."""

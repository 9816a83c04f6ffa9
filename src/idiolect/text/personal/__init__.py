"""What is told of persons, found and replaced."""

"""`moesubnet wallet|balance|register|stake|subnet|weights …`."""

"""What is done with files whatever is in them: whole or not there, fetched from the web, read without trust."""

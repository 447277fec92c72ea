"""A fuzz run over everything that reads files from outside: `python -m tests.fuzz --help`.

mutations.py damages sample files, by bytes and by their structure; samples.py makes the files, readers.py says who
reads them and what is a refusal in good order, campaign.py does it in a process with limits of time and memory.
"""

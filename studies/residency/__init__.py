"""What does it cost to serve a thousand models if memory cannot hold all of them?"""

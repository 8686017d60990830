"""The system under test (SUT, LoadGen's term): how a server describes itself and its models, its own statistics, and
the null server, a SUT that computes nothing."""

"""The system under test (SUT, LoadGen's term): a server's description of itself and its models, its statistics, and the
null server, which computes nothing."""

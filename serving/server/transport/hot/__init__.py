"""ModelInfer straight from grpcio's completion queue, for those versions of grpcio in which that is known to work.

    availability        may it be used here? the version, and the self-test
    completion_queue    the one module that touches grpcio's private parts
    leader, path        who polls, who computes
    inference, forms    ModelInfer from bytes to bytes

Import nothing of this but ``availability`` before that said yes: the rest may not even import with another grpcio.
"""

# SPDX-License-Identifier: Apache-2.0
"""managed.py PATH PROGRAM...: becomes the program, with a socket as its descriptor 33 on which another process listens.

That process has ended then: who asks the kernel for the process behind the socket is told of one that is not there.
"""
import os
import socket
import sys

FD = 33

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
manager = os.fork()
if manager == 0:
    listener.listen(1)
    os._exit(0)
os.waitpid(manager, 0)
os.dup2(listener.fileno(), FD)
os.execv(sys.argv[2], sys.argv[2:])

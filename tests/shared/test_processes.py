"""Children of processes that talk gRPC."""

from __future__ import annotations

import subprocess
import sys

TALKING = """
import subprocess, threading
from concurrent import futures
from fl_shared.processes import end_with_parent, set_environment

set_environment()
import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/a/b")
done = threading.Event()


def talk():
    while not done.is_set():
        call(bytes(1000), timeout=30)


threads = [threading.Thread(target=talk) for _ in range(3)]
for thread in threads:
    thread.start()
codes = [subprocess.run(["true"], preexec_fn=end_with_parent).returncode for _ in range(150)]
done.set()
for thread in threads:
    thread.join()
server.stop(None)
print([code for code in codes if code])
"""


def test_a_child_that_is_forked_while_its_parent_talks_grpc_reaches_its_exec() -> None:
    """With gRPC's fork handlers about twenty of these would not."""
    done = subprocess.run([sys.executable, "-c", TALKING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"

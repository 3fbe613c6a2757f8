"""Takes so many bytes of the only NVIDIA card, so many each second, says so, and holds them until its input ends."""

import ctypes
import subprocess
import sys
import time

STEP = 256 << 20


def ask(name, *arguments):
    result = getattr(cuda, name)(*arguments)
    if result != 0:
        sys.exit(f"{name} says: {result}")


def free_before():
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    return int(subprocess.check_output(query)) << 20


wanted, each_second = int(sys.argv[1]), int(sys.argv[2])
before = free_before()
cuda = ctypes.CDLL("libcuda.so.1")
device, context = ctypes.c_int(), ctypes.c_void_p()
ask("cuInit", 0)
ask("cuDeviceGet", ctypes.byref(device), 0)
ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
ask("cuCtxSetCurrent", context)
free, total = ctypes.c_size_t(), ctypes.c_size_t()
ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
# What every process that computes there takes for that alone: some hundred MiB.
taken = max(0, before - free.value)
while taken < wanted:
    step = min(STEP, wanted - taken)
    ask("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(step))
    taken += step
    time.sleep(step / each_second)
print("ready", flush=True)
sys.stdin.read()

"""A GPU made of threads: a ``Queue`` that runs the kernels of the GPU engines on the processor, groups that meet included.

Every thread of a group is a thread here, so that what a GPU does at the same time happens at the same time, and a missing
barrier shows. Local memory begins as NaN. Only g++ is needed.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from schuss.engines.cuts import Limits
from schuss.engines.launches import Product

COMPILER = shutil.which("g++")

HEADERS = """
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>
"""

PRELUDE = """
#include "headers.hpp"
using std::erfc, std::exp, std::expm1, std::fabs, std::log, std::log1p, std::pow, std::sqrt, std::tanh, std::cos;
#define HOST_DIALECT
#define KERNEL extern "C" void
#define KERNEL_OF_FEW KERNEL
#define DEVICE static inline
#define CONSTANT static const
#define GLOBAL
#define LOCAL
#define SHARED(type, name, count) type *const name = shared<type>(count)
#define TILE_MEMORY(name, count) real *const name = shared<real>(count)
#define BARRIER group->meeting.arrive_and_wait()
#define THREAD thread_number
#define GROUP_X group_x
#define GROUP_Y group_y
#define ADD_ONE(counter) std::atomic_ref<uint32_t>(*(counter)).fetch_add(1)
#define LOOK(counter) std::atomic_ref<uint32_t>(*(counter)).load()
#define FENCE std::atomic_thread_fence(std::memory_order_seq_cst)
struct Group {
  std::barrier<> meeting;
  alignas(16) char memory[1 << 16];
  explicit Group(int threads) : meeting(threads) { forget(); }
  void forget() { std::memset(memory, 0xff, sizeof memory); }
};
static thread_local Group *group;
static thread_local int thread_number, group_x, group_y;
static thread_local size_t taken;
template <class T> T *shared(size_t count) {
  const size_t at = (taken + 15) / 16 * 16;
  taken = at + count * sizeof(T);
  if (taken > sizeof group->memory) std::terminate();
  return reinterpret_cast<T *>(group->memory + at);
}
"""

DRIVER = """
typedef void Kernel(SESSION);
extern "C" void launch(Kernel *kernel, void **buffers, int groups, int members, int first_member, int piece, int source,
                       int together) {
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<Group>> all;
  const auto work = [=](Group *own, int thread, int first, int last) { // the groups first..last, one after the other
    for (int i = first; i < last; i++) {
      group = own, thread_number = thread, group_x = i % groups, group_y = i / groups, taken = 0;
      kernel(BUFFERS, first_member, piece, source);
      own->meeting.arrive_and_wait();
      if (thread == 0) own->forget();
      own->meeting.arrive_and_wait();
    }
  };
  for (int team = 0; team < (together ? groups * members : 1); team++) {
    all.push_back(std::make_unique<Group>(THREADS));
    for (int i = 0; i < THREADS; i++)
      threads.emplace_back(work, all.back().get(), i, team, together ? team + 1 : groups * members);
  }
  for (auto &thread : threads) thread.join();
}
"""


def compiled(text, source, result, options):
    """Return the path of what g++ makes of a text; what was made before is not made again."""
    name = hashlib.sha256((text + " ".join(options)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / "schuss_emulator" / name
    if not (folder / result).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:  # others may be compiling the same
            (Path(own) / source).write_text(text)
            subprocess.run([COMPILER, *options, Path(own) / source, "-o", Path(own) / result], check=True)
            for made in (source, result):  # the result last: it says that all is there
                (Path(own) / made).replace(folder / made)
    return folder / result


class Emulator:
    """See ``Queue``. ``launches`` remembers the names of the kernels asked for."""

    name = "emulator"

    def __init__(self, limits, flags=("-O1",)):
        self.limits, self._flags, self.launches, self._buffers = limits, flags, [], {}

    def allocate(self, sizes):
        self._buffers = {name: np.zeros(-(-size // 8), np.float64) for name, size in sizes.items()}

    def build(self, text, tile_bytes, meets):
        types = re.search(r"^#define SESSION (.+)$", text, re.MULTILINE)[1].split(", ")[: len(self._buffers)]
        given = ", ".join(f"({one.rsplit('*', 1)[0]} *)buffers[{i}]" for i, one in enumerate(types))
        whole = PRELUDE + text + DRIVER.replace("BUFFERS", given)
        options = ["-std=c++20", "-w", "-fPIC", "-pthread", *self._flags]
        headers = compiled(HEADERS, "headers.hpp", "headers.hpp.gch", [*options, "-x", "c++-header"])
        library = compiled(whole, "kernels.cpp", "kernels.so", [*options, f"-I{headers.parent}", "-shared"])
        self._library = ctypes.CDLL(str(library))
        addresses = [buffer.ctypes.data for buffer in self._buffers.values()]
        self._addresses = (ctypes.c_void_p * len(addresses))(*addresses)

    def _bytes(self, name):
        return self._buffers[name].view(np.uint8)

    def write(self, name, array, offset=0):
        self._bytes(name)[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(self, name, array):
        array.reshape(-1).view(np.uint8)[:] = self._bytes(name)[: array.nbytes]

    def run(self, launches, times):
        for _ in range(times):
            for one in launches:
                if isinstance(one, Product):
                    self.launches.append("product")
                    multiply(self._buffers, one)
                    continue
                self.launches.append(one.kernel)
                kernel = getattr(self._library, one.kernel)
                numbers = one.groups, one.members, one.first_member, one.piece, one.source, one.meets
                self._library.launch(kernel, self._addresses, *map(ctypes.c_int, numbers))

    def release(self):
        self._buffers = {}


def multiply(buffers, product):
    """Make a matrix product, of whatever lies beyond the rows too."""

    def matrix(place, rows, columns, transposed=False):
        name, first = place
        shape = (columns, rows) if transposed else (rows, columns)
        there = buffers[name].view(product.dtype)[first : first + rows * columns].reshape(shape)
        return there.T if transposed else there

    left = matrix(product.left, product.m, product.k, product.left_transposed)
    right = matrix(product.right, product.k, product.n, product.right_transposed)
    result = matrix(product.result, product.m, product.n)
    with np.errstate(all="ignore"):
        result[...] = left @ right + (result if product.adds else 0)


def limits(**changes):
    known = {"memory": 1 << 30, "local_memory": 96 << 10, "units": 3, "cooperative": True}
    return Limits(**(known | changes))

// The outputs of networks, for rows of samples.
#pragma once
#include <atomic>

#include "network.hpp"
#include "team.hpp"

// outputs: (members, n, dL). Tiles of samples of every member are shared among the threads.
template <class T>
void predict(const schuss_network &network, const T *parameters, int64_t members, const T *x, int64_t n, int threads, T *out) {
  const Shape shape(network);
  constexpr ptrdiff_t tile_bytes = 48 * 1024;
  const int64_t all = round_up(n, width<T>) / width<T>;
  const ptrdiff_t fits = tile_bytes / ptrdiff_t(shape.units() * width<T> * sizeof(T));
  const int panels = (int)std::clamp<int64_t>(fits, 1, std::clamp<int64_t>(all, 1, 16));
  const int64_t tiles = (all + panels - 1) / panels;
  const double work = 2. * shape.weights * double(n) * double(members);
  threads = (int)std::clamp<int64_t>(std::min<int64_t>(tiles * members, int64_t(work / 1e6)), 1, threads);
  std::vector<TileBuffers<T>> buffers;
  for (int id = 0; id < threads; id++) buffers.push_back(make_buffers<T>(shape, panels));
  std::atomic<int64_t> next{0};
  on_threads(
      threads, [](int) {},
      [&](int id) {
        TileBuffers<T> &at = buffers[id];
        for (int64_t i; (i = next.fetch_add(1)) < tiles * members;) {
          const int64_t member = i / tiles, first = i % tiles * panels * width<T>;
          const int64_t rows = std::min<int64_t>(panels * width<T>, n - first);
          const int here = int(round_up(rows, width<T>) / width<T>), outputs = shape.outputs();
          for (int p = 0; p < here; p++)
            gather(x, shape.inputs(), nullptr, first + p * width<T>, (int)std::min<int64_t>(width<T>, rows - p * width<T>),
                   at.x.data() + (ptrdiff_t)p * width<T> * shape.inputs());
          forward_tile(shape, parameters + member * shape.parameters, at.x.data(), at.a.data(), at.z.data(), here);
          const T *a = at.a.back();
          for (int64_t r = 0; r < rows; r++)
            for (int j = 0; j < outputs; j++)
              out[(member * n + first + r) * outputs + j] = a[(r / width<T> * outputs + j) * width<T> + r % width<T>];
        }
      });
}

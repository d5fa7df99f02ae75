// The kernels of native/, one by one: every variant is checked against plain loops in long double and then timed, so that a
// choice of block, tile or formula is a row of a table. Rates are shares of the FMA peak measured beside each turn; a slot is
// the time of one fused multiply-add of a whole vector.
#include <cstdio>
#include <random>

#include "peak.hpp"
#include "trainer.hpp"

using T = float;
constexpr int turns = 15;

static double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// How many slots work() takes.
template <class Work> double slots(Work work) {
  const auto seconds_of = [&](int times) {
    const auto start = Clock::now();
    for (int i = 0; i < times; i++) work();
    return seconds_since(start);
  };
  int times = 1;
  while (seconds_of(times) < 1e-3) times *= 2;
  std::vector<double> found;
  for (int turn = 0; turn < turns; turn++) {
    const double slot = 2. * N<T> / fma_peak<T>(1, 1e-3);
    found.push_back(seconds_of(times) / times / slot);
  }
  return median(found);
}

static std::mt19937 engine(1);
static Buffer<T> random_numbers(size_t count) {
  std::uniform_real_distribution<T> uniform(-0.5, 0.5);
  Buffer<T> numbers(count);
  for (auto &number : numbers) number = uniform(engine);
  return numbers;
}

// The largest error in units of eps times the sum of the absolute terms.
struct Check {
  double worst = 0;
  void operator()(double got, long double exact, long double scale) {
    worst = std::max(worst, std::fabs(double((got - exact) / (scale * std::numeric_limits<T>::epsilon()))));
  }
};
static void report(const char *what, int ni, int no, int panels, double fmas, double taken, const Check &check) {
  printf("| %s | %d x %d | %d | %.0f %% | %.2f |\n", what, ni, no, panels * width<T>, 100 * fmas / taken, check.worst);
  if (check.worst > 4) printf("WRONG: %s\n", what), std::exit(1);
}

template <int Units> void lab_forward(const char *what, int ni, int no, int panels) {
  const auto W = random_numbers((size_t)ni * no), b = random_numbers(no), x = random_numbers((size_t)panels * ni * width<T>);
  Buffer<T> a((size_t)panels * no * width<T>);
  const auto run = [&] {
    forward<T, activation::linear_row, Units>(W.data(), b.data(), ni, no, x.data(), a.data(), nullptr, panels);
  };
  run();
  Check check;
  for (int j = 0; j < no; j += 1 + no / 7)
    for (int lane = 0; lane < width<T>; lane += 5) {
      long double sum = b[j], scale = std::fabs(b[j]);
      for (int k = 0; k < ni; k++) {
        const long double term = (long double)W[(size_t)j * ni + k] * x[(size_t)k * width<T> + lane];
        sum += term, scale += std::fabs(term);
      }
      check(a[(size_t)j * width<T> + lane], sum, scale);
    }
  report(what, ni, no, panels, (double)ni * no * panels * panel_vectors, slots(run), check);
}

template <class Gradient> void lab_gradient(const char *what, int ni, int no, int panels, Gradient gradient_of) {
  const auto delta = random_numbers((size_t)panels * no * width<T>), a = random_numbers((size_t)panels * ni * width<T>);
  Buffer<T> G((size_t)ni * no), strips((size_t)panels * round_up(ni, strip<T>) * width<T>);
  const auto run = [&] { gradient_of(delta, a, strips, G); };
  std::fill(G.begin(), G.end(), T(0));
  run();
  Check check;
  for (int j = 0; j < no; j += 1 + no / 5)
    for (int k = 0; k < ni; k += 1 + ni / 5) {
      long double sum = 0, scale = 0;
      for (int p = 0; p < panels; p++)
        for (int lane = 0; lane < width<T>; lane++) {
          const long double term = (long double)delta[((size_t)p * no + j) * width<T> + lane] * a[((size_t)p * ni + k) * width<T> + lane];
          sum += term, scale += std::fabs(term);
        }
      check(G[(size_t)j * ni + k], sum, scale);
    }
  report(what, ni, no, panels, (double)ni * no * panels * panel_vectors, slots(run), check);
}

template <int Rows, int Columns> void lab_dots(const char *what, int ni, int no, int panels) {
  std::vector<T> g(no);
  lab_gradient(what, ni, no, panels, [&](auto &delta, auto &a, auto &, auto &G) {
    gradient<T, Rows, Columns>(delta.data(), a.data(), G.data(), g.data(), ni, no, panels);
  });
}
template <int Rows> void lab_strips(const char *what, int ni, int no, int panels) {
  const ptrdiff_t stride = round_up(ni, strip<T>) * width<T>;
  lab_gradient(what, ni, no, panels, [&](auto &delta, auto &a, auto &strips, auto &G) {
    for (int p = 0; p < panels; p++) transpose_panel(a.data() + (size_t)p * ni * width<T>, ni, strips.data() + p * stride);
    for (int k = 0; k < ni; k += strip<T>)
      gradient_strip<T, Rows>(delta.data(), no, strips.data() + (size_t)k * width<T>, stride, G.data() + k, ni, no,
                              std::min(strip<T>, ni - k), panels, false);
  });
}

// An epoch by a scheme, one thread, as a share of the peak.
template <class SchemeOf> void lab_scheme(int H, int batch, SchemeOf make) {
  const int sizes[] = {16, H, H, 4}, codes[] = {activation::code_tanh, activation::code_tanh, activation::code_linear};
  const Shape shape(schuss_network{3, sizeof(T), sizes, codes});
  const int n = std::max(batch, 64);
  const auto x = random_numbers((size_t)n * 16), y = random_numbers((size_t)n * 4);
  const bool full = batch == n;
  const Samples<T> samples(x.data(), y.data(), nullptr, n, 16, 4, full);
  auto scheme = make(shape, samples);
  auto parameters = random_numbers(shape.parameters);
  Buffer<T> next(shape.parameters), velocity(shape.parameters);
  auto buffers = make_buffers<T>(shape, scheme->tile_panels());
  Step<T> step{{0, batch, false, false, {}, {}}, parameters.data(), next.data(), velocity.data(), {Rule<T>::sgd, true, 0, 0, T(1e-3), T(.9), 1}};
  scheme->prepare(parameters.data());
  const auto run = [&] {
    for (int round = 0; round < scheme->rounds(step.batch); round++) {
      for (int item = 0; item < scheme->items(step.batch, round); item++) scheme->accumulate(round, item, step, buffers);
      step.rule.scale = T(1. / batch);
      for (int block = 0; block < scheme->blocks(); block++) scheme->update(round, block, step);
    }
  };
  const double fmas = (3. * shape.weights - 16. * H) * batch / N<T>;
  printf(" %.0f %% |", 100 * fmas / slots(run));
}

// Activations: slots for a vector, and the largest error over a sample of all floats, in ulp of the exact result.
static long double exact(const char *name, long double z) {
  const auto is = [&](const char *other) { return std::strcmp(name, other) == 0; };
  if (is("sigmoid")) return 1 / (1 + std::exp(-z));
  if (is("tanh")) return std::tanh(z);
  if (is("elu")) return z > 0 ? z : std::expm1(z);
  if (is("gelu")) return z * std::erfc(-z / std::sqrt(2.0L)) / 2;
  if (is("silu")) return z / (1 + std::exp(-z));
  if (is("softplus")) return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z));
  if (is("relu")) return z > 0 ? z : 0;
  if (is("leaky_relu")) return z > 0 ? z : 0.01L * z;
  return z;
}
static void lab_activation(int code, uint64_t step) {
  const char *name = activation::names[code];
  Buffer<T> a(16 * width<T>);
  std::vector<T> in(a.size());
  std::uniform_real_distribution<T> uniform(-4, 4);
  for (auto &z : in) z = uniform(engine);
  const double taken = slots([&] {
    std::copy(in.begin(), in.end(), a.begin());
    activation::with(code, [&](auto row) { activate<T, decltype(row)>(a.data(), nullptr, a.size()); });
  });
  double worst = 0, at = 0;
  const bool absolute = std::strcmp(name, "gelu") == 0; // promised within eps max(1, |x|)
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32);) {
    for (auto &z : a) {
      const uint32_t pattern = (uint32_t)bits;
      std::memcpy(&z, &pattern, 4);
      bits += step;
    }
    std::copy(a.begin(), a.end(), in.begin());
    activation::with(code, [&](auto row) { activate<T, decltype(row)>(a.data(), nullptr, a.size()); });
    for (size_t i = 0; i < a.size(); i++) {
      if (!std::isfinite(in[i])) continue;
      const long double wanted = exact(name, in[i]);
      if (!absolute && std::fabs(wanted) < std::numeric_limits<T>::min()) continue; // subnormal results are exempt
      const long double unit = absolute ? std::numeric_limits<T>::epsilon() * std::max(1.0f, std::fabs(in[i]))
                                        : std::ldexp(1.0L, std::ilogb(wanted) - std::numeric_limits<T>::digits + 1);
      const double error = double(std::fabs(a[i] - wanted) / unit);
      if (!(error <= worst)) worst = error, at = in[i];
    }
  }
  printf("| %s | %.1f | %.2f | %g |\n", name, taken / (a.size() / N<T>), worst, at);
}

int main(int argc, char **argv) {
  const uint64_t step = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 997;
  printf("vectors of %d bytes, %d registers; FMA peak of one thread %.0f GFLOP/s\n\n", vector_bytes, vector_registers,
         fma_peak<T>(1, 0.2) / 1e9);

  printf("| forward, units in a block | layer | samples | of peak | error, eps |\n|---|---|---|---|---|\n");
  for (const auto &[ni, no] : {std::pair{4, 32}, {32, 16}, {33, 33}, {256, 256}}) {
    lab_forward<2>("2", ni, no, 4);
    lab_forward<4>("4", ni, no, 4);
    lab_forward<8>("8", ni, no, 4);
    lab_forward<12>("12", ni, no, 4);
  }
  printf("\n| gradient | layer | samples | of peak | error, eps |\n|---|---|---|---|---|\n");
  for (const int panels : {2, 6, 14}) {
    for (const auto &[ni, no] : {std::pair{32, 16}, {64, 64}, {256, 256}}) {
      lab_dots<4, 2>("dot products 4 x 2", ni, no, panels);
      lab_dots<4, 4>("dot products 4 x 4", ni, no, panels);
      lab_dots<4, 6>("dot products 4 x 6", ni, no, panels);
      lab_strips<4>("outer products, 4 rows", ni, no, panels);
      lab_strips<8>("outer products, 8 rows", ni, no, panels);
      lab_strips<12>("outer products, 12 rows", ni, no, panels);
    }
  }
  printf("\n| schemes, one step of 16-H-H-4, one thread | tiled | wide | small |\n|---|---|---|---|\n");
  for (const int H : {16, 64, 128, 256})
    for (const int batch : {1, 8, 32, 256, 2048}) {
      printf("| H %d, batch %d |", H, batch);
      lab_scheme(H, batch, [&](auto &shape, auto &samples) { return std::make_unique<TiledStep<T>>(shape, 0, samples, batch); });
      lab_scheme(H, batch, [&](auto &shape, auto &samples) { return std::make_unique<WideStep<T>>(shape, 0, samples, batch); });
      if (batch <= 32)
        lab_scheme(H, batch, [&](auto &shape, auto &samples) { return std::make_unique<SmallStep<T>>(shape, 0, samples, batch); });
      else printf(" |");
      printf("\n");
    }
  printf("\n| activation | slots a vector | largest error, ulp (gelu: eps max(1, x)) | at |\n|---|---|---|---|\n");
  for (int code = 0; code < (int)std::size(activation::names); code++) lab_activation(code, step);
}

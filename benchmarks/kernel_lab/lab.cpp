// The kernels of native/, one by one: every variant is checked against plain loops in long double and then timed, so that a
// choice of block, tile or formula is a row of a table. Rates are shares of the FMA peak measured beside each turn; a slot is
// the time of one fused multiply-add of a whole vector.
#include <cstdio>
#include <random>

#include "peak.hpp"
#include "shallow.hpp"
#include "small.hpp"
#include "tiled.hpp"
#include "trainer.hpp"
#include "wide.hpp"

using T = float;
constexpr int turns = 15;

// Counts what is allocated: a step must allocate nothing.
static std::atomic<long> allocations{0};
void *operator new(size_t bytes) {
  allocations++;
  if (void *p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
void *operator new(size_t bytes, std::align_val_t align) {
  allocations++;
  if (void *p = std::aligned_alloc((size_t)align, round_up(bytes, (ptrdiff_t)align))) return p;
  throw std::bad_alloc();
}
void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, size_t) noexcept { std::free(p); }
void operator delete(void *p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void *p, size_t, std::align_val_t) noexcept { std::free(p); }

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
    forward<T, activation::linear_row, Units>(functions_of<T>(activation::code_linear), W.data(), b.data(), ni, no, x.data(), a.data(), nullptr, panels);
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
          const size_t dj = ((size_t)p * no + j) * width<T> + lane, ak = ((size_t)p * ni + k) * width<T> + lane;
          const long double term = (long double)delta[dj] * a[ak];
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

// A step by a scheme, one thread, as a share of the peak. sizes: of the layers; all but the last are of one activation.
template <class Scheme> void lab_scheme(const std::vector<int> &sizes, int code, int batch) {
  const int depth = (int)sizes.size() - 1, inputs = sizes.front(), outputs = sizes.back();
  std::vector<int> codes(depth, code);
  codes.back() = activation::code_linear;
  const Shape shape(schuss_network{depth, sizeof(T), sizes.data(), codes.data()});
  const int n = std::max(batch, 64);
  const auto x = random_numbers((size_t)n * inputs), y = random_numbers((size_t)n * outputs);
  const bool full = batch == n;
  Samples<T> samples(n, inputs, outputs, false, full);
  samples.fill(0, n, x.data(), y.data(), nullptr);
  const Loss<T> loss{cost::code_quadratic, 1, std::vector<T>(outputs)};
  auto scheme = std::make_unique<Scheme>(shape, loss, samples, batch);
  auto parameters = random_numbers(shape.parameters);
  Buffer<T> next(shape.parameters), velocity(shape.parameters);
  auto buffers = make_buffers<T>(shape, scheme->tile_panels());
  Rule<T> rule{};
  rule.kind = Rule<T>::sgd, rule.bias_momentum = true, rule.eta = T(1e-3), rule.mu = T(.9), rule.keep = 1;
  const Batch all{0, batch, Order::given, false, {}, {}};
  Step<T> step{all, parameters.data(), next.data(), velocity.data(), nullptr, rule, {}};
  scheme->prepare(parameters.data());
  const auto run = [&] {
    scheme->begin(step, buffers);
    for (int round = 0; round < scheme->rounds(step.batch); round++) {
      for (int item = 0; item < scheme->items(step.batch, round); item++) scheme->accumulate(round, item, step, buffers);
      if (round == scheme->rounds(step.batch) - 1) step.rule.scale = T(1 / scheme->totals(step, buffers).weight);
      for (int block = 0; block < scheme->blocks(); block++) scheme->update(round, block, step, buffers);
    }
  };
  const long before = allocations;
  run();
  if (allocations != before) printf("WRONG: a step allocates\n"), std::exit(1);
  const double fmas = (3. * shape.weights - (double)inputs * sizes[1]) * batch / N<T>;
  printf(" %.0f %% |", 100 * fmas / slots(run));
}

// Activations: slots for a vector, and the largest error over a sample of all floats, or all of them, in ulp of the exact result
// (in double: its own error does not show). It must keep to what docs/mathematics.md promises.
static double exact(const char *name, double z) {
  const auto is = [&](const char *other) { return std::strcmp(name, other) == 0; };
  if (is("sigmoid")) return 1 / (1 + std::exp(-z));
  if (is("tanh")) return std::tanh(z);
  if (is("elu")) return z > 0 ? z : std::expm1(z);
  if (is("gelu")) return z * std::erfc(-z * std::sqrt(0.5)) / 2;
  if (is("silu")) return z / (1 + std::exp(-z));
  if (is("softplus")) return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z));
  if (is("exp")) return std::exp(z);
  if (is("relu")) return z > 0 ? z : 0;
  if (is("leaky_relu")) return z > 0 ? z : 0.01 * z;
  return z;
}
struct Worst {
  double error = 0, at = 0;
};
static Worst worst_of(int code, uint64_t first, uint64_t end, uint64_t step) {
  const char *name = activation::names[code];
  const bool absolute = std::strcmp(name, "gelu") == 0; // promised within 4 eps max(1, |x|)
  Buffer<T> in(64 * width<T>), a(in.size());
  Worst worst;
  for (uint64_t bits = first; bits < end;) {
    for (auto &z : in) {
      const uint32_t pattern = (uint32_t)bits;
      std::memcpy(&z, &pattern, 4);
      bits += step;
    }
    a = in;
    functions_of<T>(code).apply(a.data(), nullptr, a.size(), panel_vectors);
    for (size_t i = 0; i < a.size(); i++) {
      if (!std::isfinite(in[i])) continue;
      const double wanted = exact(name, in[i]);
      if (!absolute && std::fabs(wanted) < std::numeric_limits<T>::min()) continue; // subnormal results are exempt
      if (std::fabs(wanted) > std::numeric_limits<T>::max()) continue;              // exp overflows
      const double unit = absolute ? std::numeric_limits<T>::epsilon() * std::max(1.0, std::fabs((double)in[i]))
                                   : std::ldexp(1.0, std::ilogb(wanted) - std::numeric_limits<T>::digits + 1);
      const double error = std::fabs(a[i] - wanted) / unit;
      if (!(error <= worst.error)) worst = {error, in[i]};
    }
  }
  return worst;
}
static bool lab_activation(int code, uint64_t step) {
  const char *name = activation::names[code];
  Buffer<T> a(16 * width<T>);
  const auto in = random_numbers(a.size());
  const double taken = slots([&] {
    for (size_t i = 0; i < a.size(); i++) a[i] = 8 * in[i];
    functions_of<T>(code).apply(a.data(), nullptr, a.size(), panel_vectors);
  });
  const int threads = (int)std::max(1u, std::thread::hardware_concurrency());
  std::vector<Worst> found(threads);
  on_threads(threads, [](int) {}, [&](int id) {
    const uint64_t all = uint64_t(1) << 32;
    found[id] = worst_of(code, all * id / threads, all * (id + 1) / threads, step);
  });
  Worst worst;
  for (const auto &one : found)
    if (!(one.error <= worst.error)) worst = one;
  const bool tight = std::strcmp(name, "sigmoid") == 0 || std::strcmp(name, "tanh") == 0;
  const double promised = tight ? 3 : std::strcmp(name, "gelu") == 0 ? 4 : 6;
  printf("| %s | %.1f | %.2f | %g | %g |\n", name, taken / (a.size() / N<T>), worst.error, promised, worst.at);
  return worst.error <= promised;
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
      lab_dots<4, 8>("dot products 4 x 8", ni, no, panels);
      lab_strips<4>("outer products, 4 rows", ni, no, panels);
      lab_strips<8>("outer products, 8 rows", ni, no, panels);
      lab_strips<12>("outer products, 12 rows", ni, no, panels);
    }
  }
  printf("\n| schemes, one step of 16-H-H-4, one thread | tiled | wide | small |\n|---|---|---|---|\n");
  for (const int H : {16, 64, 128, 256})
    for (const int batch : {1, 8, 32, 256, 2048}) {
      const std::vector<int> sizes{16, H, H, 4};
      printf("| H %d, batch %d |", H, batch);
      lab_scheme<TiledStep<T>>(sizes, activation::code_tanh, batch);
      lab_scheme<WideStep<T>>(sizes, activation::code_tanh, batch);
      if (batch <= 32) lab_scheme<SmallStep<T>>(sizes, activation::code_tanh, batch);
      else printf(" |");
      printf("\n");
    }
  printf("\n| schemes, one step of one hidden layer of relu, one thread | tiled | wide | shallow |\n|---|---|---|---|\n");
  for (const auto &sizes : {std::vector{4, 32, 1}, {20, 100, 1}, {64, 100, 10}, {20, 512, 1}})
    for (const int batch : {32, 64, 200, 1000}) {
      printf("| %d-%d-%d, batch %d |", sizes[0], sizes[1], sizes[2], batch);
      lab_scheme<TiledStep<T>>(sizes, activation::code_relu, batch);
      lab_scheme<WideStep<T>>(sizes, activation::code_relu, batch);
      lab_scheme<ShallowStep<T>>(sizes, activation::code_relu, batch);
      printf("\n");
    }
  printf("\n| activation | slots a vector | largest error, ulp (gelu: eps max(1, x)) | promised | at |\n|---|---|---|---|---|\n");
  bool kept = true;
  for (int code = 0; code < activation::code_softmax; code++) kept &= lab_activation(code, step);
  if (!kept) printf("WRONG: an activation is worse than promised\n");
  return !kept;
}

// Random trainings through the C interface native/schuss.h, for the sanitizers: every array lies on the heap and is exactly as
// large as documented. Usage: driver FIRST_SEED CASES SECONDS [overrun | overflow | race]; the last are mistakes made on purpose.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "arrays.hpp"
#include "schuss.h"

// What a case is drawn as, before any array is made.
struct Choice {
  int64_t samples, batch, members;
  int threads, element, order, targets, folds;
  std::vector<int32_t> sizes, activations;
  std::string cost;
  bool in_place, weighted, validated, resampled, drops;
  double input_noise, average;
};

constexpr uint64_t least_cases = 40; // however long they take: enough for every scheme

static const char *const elementwise[] = {"linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "exp"};
static const char *const costs[] = {"quadratic", "absolute", "huber", "quantile", "poisson", "binary_cross_entropy", "cross_entropy"};

static void succeed(int32_t code) {
  if (code) throw std::runtime_error(schuss_error());
}

static std::vector<int32_t> draw_sizes(Random &random, const std::string &scheme) {
  if (scheme == "shallow") return {random.whole(1, 24), random.whole(16, 70), random.whole(1, 5)};
  if (scheme == "wide") return {random.whole(1, 150), random.whole(150, 170), random.whole(150, 160), random.whole(1, 4)};
  std::vector<int32_t> sizes{random.whole(1, 40)};
  for (int layer = random.whole(1, 4); layer > 0; layer--) sizes.push_back(random.whole(1, 40));
  return sizes;
}

static Choice draw(Random &random) {
  static const char *const schemes[] = {"small", "shallow", "tiled", "wide"};
  const std::string scheme = random.one_of(schemes);
  Choice choice{};
  choice.sizes = draw_sizes(random, scheme);
  choice.samples = scheme == "small" ? random.whole(2, 60) : random.whole(1, scheme == "wide" ? 80 : 400);
  choice.batch = scheme == "small" ? random.whole(1, std::min<int>(8, (int)choice.samples - 1))
                 : random.share(0.4) ? choice.samples : random.whole(1, (int)choice.samples);
  choice.members = random.share(0.5) ? 1 : random.whole(2, 5);
  choice.in_place = random.share(0.4);
  choice.order = random.share(0.3) ? 0 : choice.in_place && random.share(0.5) ? 2 : 1;
  if (choice.order == 2 && random.share(0.2)) { // more than a block, and than a window of blocks; of a network that is quick
    choice.samples = random.share(0.3) ? 16 * 4096 + 4100 : random.whole(4097, 9000);
    choice.sizes = {random.whole(1, 3), random.whole(1, 6), 1};
    choice.batch = choice.samples / random.whole(2, 6), choice.members = 1;
  }
  choice.threads = random.whole(1, 4);
  choice.element = random.share(0.5) ? 4 : 8;
  choice.cost = random.one_of(costs);
  int32_t &outputs = choice.sizes.back();
  choice.targets = outputs;
  if (choice.cost == "cross_entropy") {
    outputs = std::max(outputs, 2);
    choice.targets = random.share(0.7) ? 1 : outputs;
  } else if (choice.cost == "quantile") {
    choice.targets = random.whole(1, 2);
    outputs = choice.targets * random.whole(1, 3);
  }
  for (size_t l = 1; l < choice.sizes.size(); l++) choice.activations.push_back(schuss_activation(random.one_of(elementwise)));
  if (choice.cost == "poisson" || choice.cost == "binary_cross_entropy" || choice.cost == "cross_entropy")
    choice.activations.back() = schuss_activation("linear"); // the cost takes logits
  choice.weighted = random.share(0.4), choice.resampled = random.share(0.25), choice.drops = random.share(0.3);
  choice.folds = !choice.in_place && choice.samples >= 4 && random.share(0.25) ? random.whole(2, 4) : 0;
  choice.validated = choice.folds || random.share(0.5);
  choice.input_noise = random.share(0.2) ? 0.1 : 0;
  choice.average = random.share(0.3) ? 0.9 : 0;
  return choice;
}

template <class T> static Rows<T> draw_rows(Random &random, const Choice &choice, int64_t samples, bool weighted) {
  Rows<T> rows{samples, choice.sizes.front(), choice.targets, {}, {}, {}};
  rows.x = random.array<T>(samples * rows.inputs, -2, 2);
  rows.y = random.array<T>(samples * rows.targets, 0, 1);
  if (choice.cost == "cross_entropy" && choice.targets == 1)
    for (int64_t i = 0; i < samples; i++) rows.y[i] = T(random.whole(0, choice.sizes.back() - 1));
  if (weighted) {
    rows.weights = random.array<T>(samples, 0, 2);
    for (int64_t i = 0; i < samples; i++)
      if (random.share(0.2)) rows.weights[i] = 0;
  }
  return rows;
}

template <class T> class Case {
public:
  Case(Random &random, const Choice &choice, const std::string &mistake) : random_(random), choice_(choice), mistake_(mistake) {
    const int depth = (int)choice.activations.size(), outputs = choice.sizes.back();
    for (int l = 0; l < depth; l++) count_ += (choice.sizes[l] + 1) * (int64_t)choice.sizes[l + 1];
    sizes_ = copied(choice.sizes), activations_ = copied(choice.activations);
    parameters_ = random.array<T>(choice.members * count_, -0.5, 0.5);
    dropout_ = random.array<double>(depth, 0, 0.5);
    dropout_[depth - 1] = 0;
    options_ = random.array<double>(outputs, 0.1, 0.9);
    seeds_ = random.bits<uint64_t>(choice.members), noise_seeds_ = random.bits<uint64_t>(choice.members);
    keys_ = random.bits<uint32_t>(4 * choice.members);
    penalties_ = random.array<double>(2 * choice.members, 0, 0.1);
    if (random.share(0.5)) std::fill_n(penalties_.get(), 2 * choice.members, 0.0);
    training_ = draw_rows<T>(random, choice, choice.samples, choice.weighted);
    if (choice.folds) draw_folds();
    else if (choice.validated) held_out_ = draw_rows<T>(random, choice, random.whole(1, 100), random.share(0.5));
    if (mistake == "overrun") training_.x = random.array<T>(choice.samples * choice.sizes.front() - 1, -2, 2);
    plan_ = {{depth, choice.element, sizes_.get(), activations_.get()},
             choice.drops ? dropout_.get() : nullptr, choice.input_noise, schuss_cost(choice.cost.c_str()), outputs / choice.targets,
             options_.get(), choice.order, choice.threads, choice.members, choice.batch, seeds_.get(), noise_seeds_.get(),
             choice.resampled ? keys_.get() : nullptr, choice.folds ? folds_.get() : nullptr, left_out_.get(), fold_ends_.get(),
             fold_weights_.get(), penalties_.get(), choice.average};
  }

  // Runs the case; returns the scheme that it took.
  std::string run() {
    schuss_session *session = open();
    int32_t threads;
    const std::string scheme = schuss_scheme(session, &threads);
    if (mistake_ == "race") train_twice(session);
    int64_t step = 0;
    for (int runs = random_.whole(1, 3); runs > 0; runs--) {
      step = train(session, step);
      touch_states(session);
      if (random_.share(0.5)) gradient(session, step);
    }
    schuss_close(session);
    predict();
    return scheme;
  }
  uint64_t digest() const { return digest_of(parameters_.get(), choice_.members * count_ * sizeof(T)); }

private:
  void draw_folds() { // the validation data are the same rows in the order of their folds
    const int64_t n = choice_.samples;
    folds_ = array_of<int32_t>(n), left_out_ = array_of<int32_t>(choice_.members);
    fold_ends_ = array_of<int64_t>(choice_.folds), fold_weights_ = array_of<double>(choice_.folds);
    held_out_ = {n, training_.inputs, training_.targets, array_of<T>(n * training_.inputs), array_of<T>(n * training_.targets),
                 training_.weights ? array_of<T>(n) : nullptr};
    for (int64_t i = 0; i < n; i++) folds_[i] = int32_t(i % choice_.folds);
    for (int64_t m = 0; m < choice_.members; m++) left_out_[m] = random_.whole(0, choice_.folds - 1);
    int64_t at = 0;
    for (int fold = 0; fold < choice_.folds; fold++) {
      double weight = 0;
      for (int64_t i = fold; i < n; i += choice_.folds) weight += training_.weight(i), held_out_.copy(at++, training_, i);
      fold_ends_[fold] = at, fold_weights_[fold] = weight;
    }
  }

  schuss_session *open() {
    const schuss_data training = training_.described(choice_.in_place);
    const bool in_place = choice_.in_place && random_.share(0.7);
    const schuss_data held_out = held_out_.described(in_place);
    schuss_session *session = nullptr;
    succeed(schuss_open(&plan_, parameters_.get(), &training, choice_.validated ? &held_out : nullptr, &session));
    if (!choice_.in_place) fill(session, 0, training_);
    if (choice_.validated && !in_place) fill(session, 1, held_out_);
    return session;
  }

  void fill(schuss_session *session, int which, const Rows<T> &rows) {
    for (int64_t first = 0; first < rows.samples;) {
      const int64_t count = std::min<int64_t>(rows.samples - first, random_.whole(1, 200));
      const Rows<T> some = rows.part(first, count);
      succeed(schuss_fill(session, which, first, count, some.x.get(), some.y.get(), some.weights.get()));
      first += count;
    }
  }

  int64_t train(schuss_session *session, int64_t step) {
    const int64_t per_epoch = (choice_.samples + choice_.batch - 1) / choice_.batch;
    const bool full = per_epoch == 1 && !choice_.drops && choice_.input_noise == 0;
    schuss_optimizer optimizer{full && random_.share(0.4) ? (int32_t)schuss_lbfgs : random_.whole(0, 3), random_.whole(0, 1), 0,
                               nullptr, nullptr};
    const bool lbfgs = optimizer.kind == schuss_lbfgs;
    optimizer.history = lbfgs ? random_.whole(1, 6) : 0;
    const auto rates = array_of<double>(6 * choice_.members);
    const double largest[] = {lbfgs ? 1e-6 : random_.share(0.1) ? 1e30 : 0.1, 0.1, 0.9, 0.99, 1e-7, 0.5};
    const bool clips = random_.share(0.3);
    for (int64_t i = 0; i < 6 * choice_.members; i++) rates[i] = i % 6 == 5 && !clips ? 0 : largest[i % 6];
    optimizer.rates = rates.get();
    const bool scheduled = !lbfgs && random_.share(0.3), stops = random_.share(0.5);
    const int64_t end = std::min(step / per_epoch + random_.whole(1, 5), step / per_epoch + 1 + 400 / per_epoch);
    const bool of_training = !choice_.validated || random_.share(0.2);
    const schuss_watch watch{random_.whole(1, 3), end, stops ? random_.whole(1, 3) : -1, random_.share(0.3) ? 0.01 : 0,
                             of_training, random_.share(0.8)};
    succeed(schuss_begin(session, &watch, &optimizer));
    while (step < end * per_epoch) {
      const int64_t steps = std::min<int64_t>(end * per_epoch - step, random_.whole(1, 2 * (int)per_epoch));
      const auto factors = scheduled ? random_.array<double>(6 * steps, 0, 1) : nullptr;
      optimizer.factors = factors.get();
      const int64_t epochs = (step + steps) / per_epoch - step / per_epoch;
      const auto cost = array_of<double>(epochs * choice_.members);
      const auto validation = choice_.validated ? array_of<double>(epochs * choice_.members) : nullptr;
      const int64_t from = mistake_ == "overflow" ? INT64_MAX : step;
      succeed(schuss_advance(session, from, steps, &optimizer, cost.get(), validation.get()));
      step += steps;
    }
    if (choice_.validated && !of_training) schuss_restore_best(session);
    return step;
  }

  void gradient(schuss_session *session, int64_t step) {
    const auto cost = array_of<double>(choice_.members);
    const auto gradients = array_of<T>(choice_.members * count_);
    succeed(schuss_gradient(session, step, cost.get(), gradients.get()));
  }

  static void touch_states(schuss_session *session) { // reads and writes every byte of every state
    for (int which = 0; which <= 8; which++) {
      int64_t bytes = 0;
      void *state = schuss_state(session, which, &bytes);
      const auto copy = array_of<char>(bytes);
      if (bytes) std::memcpy(copy.get(), state, bytes), std::memcpy(state, copy.get(), bytes);
    }
  }

  void predict() {
    const int64_t n = random_.whole(1, 300);
    const auto x = random_.array<T>(n * choice_.sizes.front(), -2, 2);
    const auto outputs = array_of<T>(choice_.members * n * choice_.sizes.back());
    if (choice_.cost == "cross_entropy") activations_[plan_.network.depth - 1] = schuss_activation("softmax");
    succeed(schuss_predict(&plan_.network, parameters_.get(), choice_.members, x.get(), n, choice_.threads, outputs.get()));
  }

  void train_twice(schuss_session *session) { // on one array of parameters at once, which nobody may do
    schuss_session *other = open();
    const auto rates = array_of<double>(6 * choice_.members);
    rates[0] = 0.1;
    const schuss_optimizer optimizer{schuss_sgd, 1, 0, rates.get(), nullptr};
    const schuss_watch watch{1, 1000, -1, 0, 0, 1};
    const auto steps = [&](schuss_session *of) {
      const auto cost = array_of<double>(200 * choice_.members), validation = array_of<double>(200 * choice_.members);
      for (int64_t step = 0; step < 100; step++) schuss_advance(of, step, 1, &optimizer, cost.get(), validation.get());
    };
    for (schuss_session *one : {session, other}) schuss_begin(one, &watch, &optimizer);
    std::thread beside(steps, other);
    steps(session);
    beside.join();
    schuss_close(other);
  }

  Random &random_;
  Choice choice_;
  std::string mistake_;
  int64_t count_ = 0; // parameters of a member
  Array<int32_t> sizes_, activations_, folds_, left_out_;
  Array<T> parameters_;
  Array<double> dropout_, options_, penalties_, fold_weights_;
  Array<uint64_t> seeds_, noise_seeds_;
  Array<uint32_t> keys_;
  Array<int64_t> fold_ends_;
  Rows<T> training_, held_out_;
  schuss_plan plan_{};
};

template <class T> static std::pair<std::string, uint64_t> result_of(uint64_t seed, int threads, const std::string &mistake) {
  Random random(seed);
  Choice choice = draw(random);
  if (threads) choice.threads = threads;
  if (mistake != "") choice.in_place = true, choice.folds = 0;
  Case<T> one(random, choice, mistake);
  const std::string scheme = one.run();
  return {scheme, one.digest()};
}

static std::pair<std::string, uint64_t> result(uint64_t seed, int threads, const std::string &mistake) {
  Random random(seed);
  return draw(random).element == 4 ? result_of<float>(seed, threads, mistake) : result_of<double>(seed, threads, mistake);
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  const uint64_t first = std::strtoull(arguments[1], nullptr, 10), cases = std::strtoull(arguments[2], nullptr, 10);
  const std::string mistake = count > 4 ? arguments[4] : "";
  name_the_seed_of_a_failure();
  const Deadline deadline(std::atof(arguments[3]));
  std::map<std::string, int> schemes;
  uint64_t seed = first;
  for (; seed < first + cases && (seed < first + least_cases || !deadline.passed()); seed++) {
    seed_at_work = seed;
    const auto found = result(seed, 0, mistake);
    schemes[found.first]++;
    if (result(seed, 1, mistake).second != found.second) { // the bits do not depend on the number of threads
      std::fprintf(stderr, "one thread gives other bits\n");
      write_seed();
      return 1;
    }
  }
  std::printf("%llu cases", (unsigned long long)(seed - first));
  for (const auto &[scheme, times] : schemes) std::printf(" %s=%d", scheme.c_str(), times);
  std::printf("\n");
}

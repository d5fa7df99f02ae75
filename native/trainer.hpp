// A session of the CPU engine: the loop over steps, epochs and members, and who of the threads does what.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "small.hpp"
#include "team.hpp"
#include "tiled.hpp"
#include "wide.hpp"

// The scheme that is fastest for a plan: benchmarks/kernel_lab/ measures where the borders lie.
template <class T>
std::unique_ptr<Scheme<T>> choose_scheme(const Shape &shape, int cost_code, const Samples<T> &samples, int64_t batch) {
  ptrdiff_t largest = 0; // weights of a layer
  for (int l = 0; l < shape.depth; l++) largest = std::max(largest, (ptrdiff_t)shape.sizes[l] * shape.sizes[l + 1]);
  if (batch <= width<T> && batch < samples.size()) return std::make_unique<SmallStep<T>>(shape, cost_code, samples, batch);
  if (largest >= 20000) return std::make_unique<WideStep<T>>(shape, cost_code, samples, batch);
  return std::make_unique<TiledStep<T>>(shape, cost_code, samples, batch);
}

enum Fate : int32_t { running, diverged, stopped };

constexpr double no_cost = std::numeric_limits<double>::quiet_NaN();

// Threads that work on one member together, and what they share.
template <class T> struct Team {
  std::unique_ptr<Scheme<T>> work;
  Buffer<T> spare; // parameters are written here and there in turn, so that a step that is not adopted leaves no trace
  Barrier barrier{1};
  std::atomic<int> next_item{0}, next_block{0};
  std::atomic<bool> infinite[2]{}; // whether a step, even or odd, led out of the finite numbers
  double squares = 0;              // sum of W^2, if there is an l2 term
  std::vector<double> validation;  // the costs of tiles of the validation data
};

// What a run of steps on one member carries along; every thread of a team has an equal copy.
struct Progress {
  double epoch_cost, epoch_weight, best_cost;
  int64_t best_epoch;
};

struct schuss_session {
  virtual ~schuss_session() = default;
  virtual void begin(const schuss_watch &) = 0;
  virtual void advance(int64_t first_step, int64_t steps, const schuss_sgd &, double *costs, double *validation_costs) = 0;
  virtual void restore_best() = 0;
  virtual void gradient(int64_t step, double *costs, void *gradients) = 0;
  virtual void *state(int32_t which) = 0;
};

// What came of a step: S C, with the l2 term, and S; whether it led to finite numbers.
struct Taken {
  double cost, weight;
  bool finite;
};

template <class T> class Trainer final : public schuss_session {
public:
  Trainer(const schuss_plan &plan, T *parameters, const schuss_data &data, const schuss_data *validation)
      : shape_(plan.network), plan_(plan), parameters_(parameters),
        shuffle_seeds_(plan.shuffle_seeds, plan.shuffle_seeds + plan.members),
        samples_(cast(data.x), cast(data.y), cast(data.weights), data.samples, shape_.inputs(), shape_.outputs(),
                 plan.batch >= data.samples) {
    const int64_t p = shape_.parameters, members = plan.members;
    steps_per_epoch_ = (data.samples + plan.batch - 1) / plan.batch;
    if (validation) {
      validation_ = std::make_unique<Samples<T>>(cast(validation->x), cast(validation->y), cast(validation->weights),
                                                 validation->samples, shape_.inputs(), shape_.outputs(), true);
      validation_weight_ = validation->total_weight;
    }
    if (plan.bootstrap_keys) bootstrap_keys_.assign(plan.bootstrap_keys, plan.bootstrap_keys + 4 * members);
    velocity_.resize(members * p);
    fate_.assign(members, running);
    fate_epoch_.assign(members, 0);
    progress_.assign(members, {0, 0, std::numeric_limits<double>::infinity(), 0});
    make_teams();
  }

  void begin(const schuss_watch &watch) override {
    watch_ = watch;
    if (watch.patience >= 0) best_.resize(plan_.members * shape_.parameters); // only now: it is as large as the parameters
    for (auto &progress : progress_) progress.best_cost = std::numeric_limits<double>::infinity();
    for (auto &fate : fate_)
      if (fate == stopped) fate = running;
  }

  void advance(int64_t first_step, int64_t steps, const schuss_sgd &sgd, double *costs, double *validation_costs) override {
    const int64_t rows = (first_step + steps) / steps_per_epoch_ - first_step / steps_per_epoch_;
    std::fill(costs, costs + rows * plan_.members, no_cost);
    if (validation_) std::fill(validation_costs, validation_costs + rows * plan_.members, no_cost);
    on_members([&](int64_t member, Team<T> &team, TileBuffers<T> &buffers, bool leads) {
      if (fate_[member] == running)
        run(member, team, buffers, leads, first_step, steps, sgd, costs, validation_costs);
    });
  }

  void restore_best() override {
    const int64_t p = shape_.parameters;
    if (best_.empty()) return;
    for (int64_t m = 0; m < plan_.members; m++)
      if (std::isfinite(progress_[m].best_cost)) std::copy_n(best_.data() + m * p, p, parameters_ + m * p);
  }

  void gradient(int64_t step, double *costs, void *gradients) override {
    on_members([&](int64_t member, Team<T> &team, TileBuffers<T> &buffers, bool leads) {
      T *parameters = parameters_ + member * shape_.parameters, *out = (T *)gradients + member * shape_.parameters;
      Step<T> now{batch_of(step, member), parameters, out, nullptr, {}};
      now.rule.kind = Rule<T>::gradient_only;
      if (leads) team.work->prepare(parameters);
      team.barrier.wait();
      const Taken taken = take(now, team, buffers, leads, step & 1);
      if (leads) costs[member] = taken.cost / taken.weight;
      if (leads && taken.weight == 0) std::fill(out, out + shape_.parameters, T(no_cost));
    });
  }

  void *state(int32_t which) override {
    return which == 0 ? (void *)velocity_.data() : which == 1 ? (void *)fate_.data() : (void *)fate_epoch_.data();
  }

private:
  static const T *cast(const void *p) { return static_cast<const T *>(p); }

  void make_teams() {
    // Several members: each thread takes whole ones, and there is nothing to wait for. One: its step is shared, unless it is
    // too short to be worth a barrier.
    const double work = 6. * shape_.weights * std::min<double>(plan_.batch, samples_.size());
    const bool apart = plan_.members >= plan_.threads;
    threads_ = apart ? plan_.threads : std::max(1, std::min<int>(plan_.threads, int(work / 50000)));
    threads_ = (int)std::min<int64_t>(threads_, apart ? plan_.members : 256);
    teams_ = std::vector<Team<T>>(apart ? threads_ : 1);
    int tile_panels = 1;
    for (auto &team : teams_) {
      team.work = choose_scheme<T>(shape_, plan_.cost, samples_, plan_.batch);
      tile_panels = team.work->tile_panels();
      team.spare.resize(shape_.parameters);
      if (validation_) team.validation.resize(tiles_of_validation(tile_panels));
    }
    tile_panels_ = tile_panels;
    for (int i = 0; i < threads_; i++) buffers_.push_back(make_buffers<T>(shape_, tile_panels));
  }

  // Calls work(member, team, buffers, leads) for every member, on all threads of the team that has it.
  template <class Work> void on_members(Work work) {
    std::atomic<int64_t> next{0};
    const bool apart = teams_.size() > 1;
    on_threads(
        threads_,
        [&](int count) {
          for (auto &team : teams_) team.barrier.resize(apart ? 1 : count);
        },
        [&](int id) {
          if (apart) {
            for (int64_t member; (member = next.fetch_add(1)) < plan_.members;)
              work(member, teams_[id], buffers_[id], true);
            return;
          }
          for (int64_t member = 0; member < plan_.members; member++) {
            work(member, teams_[0], buffers_[id], id == 0);
            teams_[0].barrier.wait();
          }
        });
  }

  Batch batch_of(int64_t step, int64_t member) const {
    const int64_t epoch = step / steps_per_epoch_, first = step % steps_per_epoch_ * plan_.batch;
    Batch batch{first, std::min(plan_.batch, samples_.size() - first), plan_.shuffle && steps_per_epoch_ > 1,
                !bootstrap_keys_.empty(), {}, {}};
    if (batch.shuffled) shuffle_keys(shuffle_seeds_[member], (uint64_t)epoch, batch.keys);
    if (batch.resampled) std::copy_n(&bootstrap_keys_[4 * member], 4, batch.bootstrap);
    return batch;
  }

  // One step by all threads of a team, into step.next.
  Taken take(Step<T> &step, Team<T> &team, TileBuffers<T> &buffers, bool leads, int parity) {
    Scheme<T> &work = *team.work;
    if (leads && plan_.l2 > 0) team.squares = sum_of_squares(step.current, shape_.weights);
    Taken taken{};
    step.rule.l2 = T(plan_.l2);
    for (int rounds = work.rounds(step.batch), round = 0; round < rounds; round++) {
      const int items = work.items(step.batch, round);
      if (leads) team.next_block.store(0, std::memory_order_relaxed);
      for (int item; (item = team.next_item.fetch_add(1, std::memory_order_relaxed)) < items;)
        work.accumulate(round, item, step, buffers);
      team.barrier.wait();
      if (leads) team.next_item.store(0, std::memory_order_relaxed);
      if (round == rounds - 1) {
        const Totals totals = work.totals(step.batch);
        taken = {totals.cost + (plan_.l2 > 0 ? 0.5 * plan_.l2 * team.squares : 0.), totals.weight, false};
        step.rule.scale = T(1 / taken.weight);
        // of the next step: the last one has been read
        if (leads) team.infinite[1 - parity].store(false, std::memory_order_relaxed);
        if (taken.weight == 0) break;
      }
      for (int block; (block = team.next_block.fetch_add(1, std::memory_order_relaxed)) < work.blocks();)
        if (!work.update(round, block, step)) team.infinite[parity].store(true, std::memory_order_relaxed);
      team.barrier.wait();
    }
    if (taken.weight == 0) team.barrier.wait();
    taken.finite = std::isfinite(taken.cost) && !team.infinite[parity].load(std::memory_order_relaxed);
    return taken;
  }

  void run(int64_t member, Team<T> &team, TileBuffers<T> &buffers, bool leads, int64_t first_step, int64_t steps,
           const schuss_sgd &sgd, double *costs, double *validation_costs) {
    const ptrdiff_t p = shape_.parameters;
    const double *rates = sgd.rates + 3 * member;
    Progress progress = progress_[member];
    T *const home = parameters_ + member * p;
    T *current = home, *next = team.spare.data();
    Rule<T> rule{};
    rule.kind = sgd.nesterov ? Rule<T>::nesterov : Rule<T>::sgd;
    rule.bias_momentum = sgd.bias_momentum;
    rule.eta = T(rates[0]), rule.keep = T(1 - rates[0] * rates[1]), rule.mu = T(rates[2]);
    if (leads) {
      team.infinite[0] = team.infinite[1] = false;
      team.work->prepare(current);
    }
    team.barrier.wait();

    for (int64_t step = first_step; step < first_step + steps; step++) {
      const int64_t epoch = step / steps_per_epoch_ + 1, row = epoch - 1 - first_step / steps_per_epoch_;
      if (step % steps_per_epoch_ == 0) progress.epoch_cost = progress.epoch_weight = 0;
      Step<T> now{batch_of(step, member), current, next, velocity_.data() + member * p, rule};
      const Taken taken = take(now, team, buffers, leads, step & 1);
      if (taken.weight > 0) { // else every sample of the batch has weight 0: it is skipped
        if (!taken.finite) {
          if (leads) fate_[member] = diverged, fate_epoch_[member] = epoch;
          break;
        }
        std::swap(current, next);
        progress.epoch_cost += taken.cost;
        progress.epoch_weight += taken.weight;
      }
      if ((step + 1) % steps_per_epoch_) continue;
      if (leads) costs[row * plan_.members + member] = progress.epoch_cost / progress.epoch_weight;
      if (!validation_ || (epoch % watch_.every && epoch != watch_.last_epoch)) continue;
      const double cost = validation_cost(current, team, buffers);
      if (leads) validation_costs[row * plan_.members + member] = cost;
      if (cost < progress.best_cost - watch_.min_delta) {
        progress.best_cost = cost, progress.best_epoch = epoch;
        if (leads && !best_.empty()) std::copy_n(current, p, best_.data() + member * p);
      } else if (watch_.patience >= 0 && epoch - progress.best_epoch >= watch_.patience) {
        if (leads) fate_[member] = stopped, fate_epoch_[member] = epoch;
        break;
      }
    }
    team.barrier.wait(); // everyone has read `progress_` and is done with `current`
    if (!leads) return;
    progress_[member] = progress;
    if (current != home) std::copy_n(current, p, home);
  }

  int tiles_of_validation(int tile_panels) const {
    const int64_t panels = round_up(validation_->size(), width<T>) / width<T>;
    return int((panels + tile_panels - 1) / tile_panels);
  }

  // The cost on the validation data, by all threads of a team; tiles are added in order.
  double validation_cost(const T *parameters, Team<T> &team, TileBuffers<T> &buffers) {
    const int64_t panels = round_up(validation_->size(), width<T>) / width<T>;
    for (int tile; (tile = team.next_item.fetch_add(1, std::memory_order_relaxed)) < (int)team.validation.size();) {
      const int64_t first = (int64_t)tile * tile_panels_;
      const Tile<T> at = validation_->tile({}, first, (int)std::min<int64_t>(tile_panels_, panels - first), buffers);
      forward_tile(shape_, parameters, at.x, buffers.a.data(), buffers.z.data(), at.panels);
      team.validation[tile] = output_tile(shape_, plan_.cost, at, buffers.a.data(), buffers.z.data());
    }
    team.barrier.wait();
    double total = 0;
    for (const double cost : team.validation) total += cost;
    team.next_item.store(0, std::memory_order_relaxed); // by all: nobody takes an item before the next barrier
    team.barrier.wait();
    return total / validation_weight_;
  }

  Shape shape_;
  schuss_plan plan_;
  T *parameters_; // (members, p), the caller's
  double validation_weight_ = 0;
  std::vector<uint64_t> shuffle_seeds_;
  std::vector<uint32_t> bootstrap_keys_; // (members, 4), or none
  Samples<T> samples_;
  std::unique_ptr<Samples<T>> validation_;
  schuss_watch watch_{1, 0, -1, 0};
  int64_t steps_per_epoch_;
  int threads_ = 1, tile_panels_ = 1;
  Buffer<T> velocity_, best_; // (members, p)
  std::vector<int32_t> fate_;
  std::vector<int64_t> fate_epoch_;
  std::vector<Progress> progress_;
  std::vector<Team<T>> teams_;
  std::vector<TileBuffers<T>> buffers_; // one a thread
};

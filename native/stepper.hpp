// One step of one member, by all threads of a team: the data it sees, the scheme that cuts it, the barriers between.
#pragma once
#include <cmath>
#include <limits>
#include <memory>

#include "scheme.hpp"
#include "team.hpp"

// Threads that work on one member together, and what they share.
template <class T> struct Team {
  std::unique_ptr<Scheme<T>> work;
  Buffer<T> spare; // parameters are written here and there in turn, so that a step that is not adopted leaves no trace
  Buffer<T> gradient, trial_gradient, direction; // where an optimizer needs them
  Barrier barrier{1};
  Shares items, blocks;
  std::atomic<bool> infinite[2]{}; // whether a step, even or odd, led out of the finite numbers
  double penalty = 0;              // of the parameters before the step: l2 / 2 sum W^2 + l1 sum |W|
  double told[4];                  // what the leader tells the others
  std::vector<double> validation;  // the costs of tiles of the validation data
};

// A thread at work on a member.
template <class T> struct Worker {
  int64_t member;
  Team<T> &team;
  TileBuffers<T> &buffers;
  int thread; // of the team
  bool leads() const { return thread == 0; }
};

// What came of a step: S C, with the penalty, and S; whether it led to finite numbers.
struct Taken {
  double cost, weight;
  bool finite;
};

template <class T> class Stepper {
public:
  Stepper(const schuss_plan &plan, const schuss_data &data)
      : shape_(shape_of(plan)), batch_(plan.batch), order_((Order)plan.order),
        loss_{plan.cost, plan.group, std::vector<T>(plan.cost_options, plan.cost_options + shape_.outputs())},
        shuffle_seeds_(plan.shuffle_seeds, plan.shuffle_seeds + plan.members),
        noise_seeds_(plan.noise_seeds, plan.noise_seeds + plan.members),
        penalties_(plan.penalties, plan.penalties + 2 * plan.members), samples_(samples_of(data, plan.batch >= data.samples)) {
    if (plan.bootstrap_keys) bootstrap_keys_.assign(plan.bootstrap_keys, plan.bootstrap_keys + 4 * plan.members);
    if (plan.folds) {
      samples_->set_folds(plan.folds);
      left_out_.assign(plan.left_out, plan.left_out + plan.members);
    }
    steps_per_epoch_ = (data.samples + batch_ - 1) / batch_;
    slices_ = slices_of(shape_);
  }
  const Shape &shape() const { return shape_; }
  const Loss<T> &loss() const { return loss_; }
  Samples<T> &samples() { return *samples_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }

  std::unique_ptr<Scheme<T>> scheme() const { return choose_scheme<T>(shape_, loss_, *samples_, batch_); }

  std::unique_ptr<Samples<T>> samples_of(const schuss_data &data, bool in_panels) const {
    const auto cast = [](const void *p) { return static_cast<const T *>(p); };
    const int inputs = shape_.inputs(), targets = shape_.targets;
    if (data.x)
      return std::make_unique<Samples<T>>(cast(data.x), cast(data.y), cast(data.weights), data.samples, inputs, targets);
    return std::make_unique<Samples<T>>(data.samples, inputs, targets, data.weighted, in_panels);
  }

  // A step from `current` to `next`; velocity and square: the optimizer's state, or null. clip: the norm that the gradient is
  // shortened to, or 0; then the team has a buffer for it.
  Taken take(int64_t step, Worker<T> &by, const T *current, T *next, T *velocity, T *square, const Rule<T> &rule, double clip) {
    if (clip > 0) return take_clipped(step, by, current, next, velocity, square, rule, clip);
    Step<T> now{batch_of(step, by.member), current, next, velocity, square, rule, {noise_seeds_[by.member], (uint64_t)step}};
    Team<T> &team = by.team;
    Scheme<T> &work = *team.work;
    const double l2 = penalties_[2 * by.member], l1 = penalties_[2 * by.member + 1];
    const bool leads = by.leads();
    const int parity = step & 1;
    if (leads && (l2 > 0 || l1 > 0))
      team.penalty = 0.5 * l2 * dot(current, current, shape_.weights) + (l1 > 0 ? l1 * sum_of_magnitudes(current, shape_.weights) : 0);
    Taken taken{};
    now.rule.l2 = T(l2), now.rule.l1 = T(l1);
    work.begin(now, by.buffers);
    for (int rounds = work.rounds(now.batch), round = 0; round < rounds; round++) {
      const int items = work.items(now.batch, round);
      if (leads) team.blocks.reset();
      team.items.run(by.thread, items, [&](int item) { work.accumulate(round, item, now, by.buffers); });
      team.barrier.wait();
      if (leads) team.items.reset();
      if (round == rounds - 1) {
        const Totals totals = work.totals(now, by.buffers);
        taken = {totals.cost + (l2 > 0 || l1 > 0 ? team.penalty : 0.), totals.weight, false};
        now.rule.scale = T(1 / taken.weight);
        // of the next step: the last one has been read
        if (leads) team.infinite[1 - parity].store(false, std::memory_order_relaxed);
        if (taken.weight == 0) break;
      }
      team.blocks.run(by.thread, work.blocks(), [&](int block) {
        if (!work.update(round, block, now, by.buffers)) team.infinite[parity].store(true, std::memory_order_relaxed);
      });
      team.barrier.wait();
    }
    if (taken.weight == 0) team.barrier.wait();
    taken.finite = std::isfinite(taken.cost) && !team.infinite[parity].load(std::memory_order_relaxed);
    return taken;
  }

  // gradient <- that of the samples of a step at `current`; costs as `take`. Steps that follow each other differ in parity.
  Taken evaluate(int64_t step, Worker<T> &by, const T *current, T *gradient) {
    if (by.leads()) by.team.work->prepare(current);
    by.team.barrier.wait();
    Rule<T> rule{};
    rule.kind = Rule<T>::gradient_only;
    return take(step, by, current, gradient, nullptr, nullptr, rule, 0);
  }

private:
  static Shape shape_of(const schuss_plan &plan) {
    Shape shape(plan.network);
    if (plan.dropout) shape.dropout.assign(plan.dropout, plan.dropout + shape.depth);
    shape.input_noise = plan.input_noise;
    shape.targets = shape.outputs() / plan.group;
    return shape;
  }

  // The gradient first, then its norm, then the step.
  Taken take_clipped(int64_t step, Worker<T> &by, const T *current, T *next, T *velocity, T *square, const Rule<T> &rule,
                     double clip) {
    Team<T> &team = by.team;
    const T *gradient = team.gradient.data();
    Rule<T> raw{};
    raw.kind = Rule<T>::gradient_only;
    Taken taken = take(step, by, current, team.gradient.data(), nullptr, nullptr, raw, 0);
    if (taken.weight == 0 || !taken.finite) return taken;
    if (by.leads()) {
      const double norm = norm_of(gradient, shape_.parameters);
      team.told[0] = norm > clip ? clip / norm : 1;
      team.blocks.reset();
    }
    team.barrier.wait();
    Step<T> now{{}, current, next, velocity, square, rule, {}};
    now.rule.scale = T(team.told[0]), now.rule.l2 = now.rule.l1 = 0;
    team.blocks.run(by.thread, (int64_t)slices_.size(), [&](int i) {
      if (!update_slice(shape_, now, slices_[i].first, slices_[i].count, gradient + slices_[i].first))
        team.infinite[step & 1].store(true, std::memory_order_relaxed);
    });
    team.barrier.wait();
    if (by.leads()) team.work->prepare(next);
    taken.finite = !team.infinite[step & 1].load(std::memory_order_relaxed);
    team.barrier.wait();
    return taken;
  }

  Batch batch_of(int64_t step, int64_t member) const {
    const int64_t epoch = step / steps_per_epoch_, first = step % steps_per_epoch_ * batch_;
    Batch batch{first, std::min(batch_, samples_->size() - first), steps_per_epoch_ > 1 ? order_ : Order::given,
                !bootstrap_keys_.empty() || !left_out_.empty(), {}, {}, !bootstrap_keys_.empty(), 0};
    if (batch.order != Order::given) shuffle_keys(shuffle_seeds_[member], (uint64_t)epoch, batch.keys);
    if (batch.resampled) std::copy_n(&bootstrap_keys_[4 * member], 4, batch.bootstrap);
    if (!left_out_.empty()) batch.left_out = left_out_[member];
    return batch;
  }

  Shape shape_;
  int64_t batch_, steps_per_epoch_;
  Order order_;
  Loss<T> loss_;
  std::vector<uint64_t> shuffle_seeds_, noise_seeds_;
  std::vector<double> penalties_;
  std::vector<uint32_t> bootstrap_keys_; // (members, 4), or none
  std::vector<int32_t> left_out_;        // (members,): the fold that each leaves out, or none
  std::unique_ptr<Samples<T>> samples_;
  std::vector<Slice> slices_;
};

// A session of the CPU engine: its state, the loops over members, epochs and steps, and what an optimizer does in each.
#pragma once
#include "lbfgs.hpp"
#include "stepper.hpp"

enum Fate : int32_t { running, diverged, stopped, converged };

constexpr double no_cost = std::numeric_limits<double>::quiet_NaN();

// What a run of steps on one member carries along; every thread of a team has an equal copy. All are double: schuss_state shows them.
struct Progress {
  double epoch_cost = 0, epoch_weight = 0, best_cost = std::numeric_limits<double>::infinity(), best_epoch = 0;
  double steps = 0, averaged = 0;
};

struct schuss_session {
  virtual ~schuss_session() = default;
  virtual void fill(int32_t which, int64_t first, int64_t count, const void *x, const void *y, const void *w) = 0;
  virtual void begin(const schuss_watch &, const schuss_optimizer &) = 0;
  virtual void advance(int64_t first_step, int64_t steps, const schuss_optimizer &, double *costs, double *validation_costs) = 0;
  virtual void restore_best() = 0;
  virtual void gradient(int64_t step, double *costs, void *gradients) = 0;
  virtual void *state(int32_t which, int64_t *bytes) = 0;
  virtual const char *scheme(int32_t *threads) const = 0;
};

template <class T> class Trainer final : public schuss_session {
public:
  Trainer(const schuss_plan &plan, T *parameters, const schuss_data &data, const schuss_data *validation)
      : stepper_(plan, data), shape_(stepper_.shape()), parameters_(parameters), members_(plan.members), average_decay_(plan.average),
        steps_per_epoch_(stepper_.steps_per_epoch()) {
    if (validation) {
      validation_ = stepper_.samples_of(*validation, !plan.folds); // of a fold, a member's are some rows from anywhere on
      held_out_.assign(members_, {0, validation->samples, validation->total_weight});
      for (int64_t m = 0; plan.folds && m < members_; m++) {
        const int32_t fold = plan.left_out[m];
        const int64_t first = fold ? plan.fold_ends[fold - 1] : 0;
        held_out_[m] = {first, plan.fold_ends[fold] - first, plan.fold_weights[fold]};
      }
    }
    fate_.assign(members_, running);
    fate_epoch_.assign(members_, 0);
    kept_pairs_.assign(members_, 0);
    progress_.assign(members_, {});
    if (average_decay_ > 0) average_.assign(parameters, parameters + members_ * shape_.parameters);
    make_teams(plan.threads, plan.batch);
  }

  void fill(int32_t which, int64_t first, int64_t count, const void *x, const void *y, const void *w) override {
    (which ? *validation_ : stepper_.samples()).fill(first, count, (const T *)x, (const T *)y, (const T *)w);
  }

  void begin(const schuss_watch &watch, const schuss_optimizer &optimizer) override {
    const int64_t p = shape_.parameters, all = members_ * p;
    const bool lbfgs = optimizer.kind == schuss_lbfgs, squares = optimizer.kind == schuss_adam || optimizer.kind == schuss_rmsprop;
    const int family = optimizer.kind == schuss_nesterov ? (int)schuss_sgd : optimizer.kind;
    watch_ = watch;
    if (family != family_ || (lbfgs && optimizer.history != history_)) {
      replace(velocity_, lbfgs ? 0 : all);
      replace(square_, squares ? all : 0);
      replace(pairs_, lbfgs ? all * 2 * optimizer.history : 0);
      kept_pairs_.assign(members_, 0);
      for (auto &progress : progress_) progress.steps = 0;
      family_ = family, history_ = optimizer.history;
    }
    bool clips = false;
    for (int64_t m = 0; m < members_; m++) clips |= !lbfgs && optimizer.rates[6 * m + 5] > 0;
    for (auto &team : teams_) {
      team.gradient.resize(clips || lbfgs ? p : 0);
      team.trial_gradient.resize(lbfgs ? p : 0);
      team.direction.resize(lbfgs ? p : 0);
    }
    if (watch.patience >= 0 && !watch.of_training) best_.resize(all); // only now: it is as large as the parameters
    if (watch.fresh)
      for (auto &progress : progress_) progress.best_cost = std::numeric_limits<double>::infinity();
    for (auto &fate : fate_)
      if (fate == stopped || fate == converged) fate = running;
  }

  void advance(int64_t first_step, int64_t steps, const schuss_optimizer &optimizer, double *costs,
               double *validation_costs) override {
    const int64_t rows = (first_step + steps) / steps_per_epoch_ - first_step / steps_per_epoch_;
    std::fill(costs, costs + rows * members_, no_cost);
    if (validation_) std::fill(validation_costs, validation_costs + rows * members_, no_cost);
    on_members([&](Worker<T> by) {
      if (fate_[by.member] != running) return;
      T *const home = parameters_ + by.member * shape_.parameters;
      Run run{by, first_step, steps, optimizer, costs, validation_costs, progress_[by.member], home, by.team.spare.data()};
      if (by.leads()) {
        by.team.infinite[0] = by.team.infinite[1] = false;
        by.team.work->prepare(home);
      }
      by.team.barrier.wait();
      if (optimizer.kind == schuss_lbfgs) iterate(run);
      else descend(run);
      by.team.barrier.wait(); // everyone has read `progress_` and is done with `current`
      if (!by.leads()) return;
      progress_[by.member] = run.progress;
      if (run.current != home) std::copy_n(run.current, shape_.parameters, home);
    });
  }

  void restore_best() override {
    const int64_t p = shape_.parameters;
    if (best_.empty()) return;
    for (int64_t m = 0; m < members_; m++)
      if (std::isfinite(progress_[m].best_cost)) std::copy_n(best_.data() + m * p, p, parameters_ + m * p);
  }

  void gradient(int64_t step, double *costs, void *gradients) override {
    on_members([&](Worker<T> by) {
      T *parameters = parameters_ + by.member * shape_.parameters, *out = (T *)gradients + by.member * shape_.parameters;
      const Taken taken = stepper_.evaluate(step, by, parameters, out);
      if (by.leads()) costs[by.member] = taken.cost / taken.weight;
      if (by.leads() && taken.weight == 0) std::fill(out, out + shape_.parameters, T(no_cost));
    });
  }

  void *state(int32_t which, int64_t *bytes) override {
    const auto shown = [&](auto &of) {
      *bytes = int64_t(of.size() * sizeof(of[0]));
      return (void *)of.data();
    };
    switch (which) {
    case 0: return shown(velocity_);
    case 1: return shown(square_);
    case 2: return shown(average_);
    case 3: return shown(best_);
    case 4: return shown(fate_);
    case 5: return shown(fate_epoch_);
    case 6: return shown(progress_);
    case 7: return shown(pairs_);
    default: return shown(kept_pairs_);
    }
  }

  const char *scheme(int32_t *threads) const override {
    *threads = threads_;
    return teams_[0].work->name();
  }

private:
  // The rows of the validation data that are a member's, and the sum of their weights.
  struct HeldOut {
    int64_t first, count;
    double weight;
  };

  // Some steps of one member, as one thread of its team sees them.
  struct Run {
    Worker<T> by;
    int64_t first_step, steps;
    const schuss_optimizer &optimizer;
    double *costs, *validation_costs;
    Progress progress;
    T *current, *next; // the parameters now, and where a step puts its own
  };

  static void replace(Buffer<T> &buffer, int64_t count) {
    Buffer<T>().swap(buffer);
    buffer.resize(count);
  }

  void make_teams(int threads, int64_t batch) {
    // Several members: each thread takes whole ones, and there is nothing to wait for. One: its step is shared, unless it is
    // too short to be worth a barrier.
    const double work = 6. * shape_.weights * std::min<double>(batch, stepper_.samples().size());
    const bool apart = members_ >= threads;
    threads_ = apart ? threads : (int)std::clamp(work / 50000, 1., (double)threads);
    threads_ = (int)std::min<int64_t>(threads_, apart ? members_ : 256);
    teams_ = std::vector<Team<T>>(apart ? threads_ : 1);
    for (auto &team : teams_) {
      team.work = stepper_.scheme();
      team.items = Shares(apart ? 1 : threads_), team.blocks = Shares(apart ? 1 : threads_);
      tile_panels_ = team.work->tile_panels();
      team.spare.resize(shape_.parameters);
      if (validation_) team.validation.resize(tiles_of_validation(validation_->size()));
    }
    for (int i = 0; i < threads_; i++) buffers_.push_back(make_buffers<T>(shape_, tile_panels_));
  }

  // Calls work(worker) for every member, on all threads of the team that has it.
  template <class Work> void on_members(Work work) {
    std::atomic<int64_t> next{0};
    const bool apart = teams_.size() > 1;
    on_threads(
        threads_,
        [&](int count) {
          for (auto &team : teams_) {
            team.barrier.resize(apart ? 1 : count);
            team.items.resize(apart ? 1 : count);
            team.blocks.resize(apart ? 1 : count);
          }
        },
        [&](int id) {
          if (apart) {
            for (int64_t member; (member = next.fetch_add(1)) < members_;)
              work(Worker<T>{member, teams_[id], buffers_[id], 0});
            return;
          }
          for (int64_t member = 0; member < members_; member++) {
            work(Worker<T>{member, teams_[0], buffers_[id], id});
            teams_[0].barrier.wait();
          }
        });
  }

  // The rule of a step: the member's rates times the step's factors; returns the norm to clip at, or 0.
  double rule_of(const Run &run, int64_t step, Rule<T> &rule) const {
    double rates[6];
    for (int k = 0; k < 6; k++) {
      rates[k] = run.optimizer.rates[6 * run.by.member + k];
      if (run.optimizer.factors) rates[k] *= run.optimizer.factors[6 * (step - run.first_step) + k];
    }
    const double eta = rates[0], mu = rates[2], rho = rates[3], t = run.progress.steps + 1;
    rule.bias_momentum = run.optimizer.bias_momentum;
    rule.eta = T(eta), rule.keep = T(1 - eta * rates[1]), rule.mu = T(mu), rule.rho = T(rho), rule.epsilon = T(rates[4]);
    if (rule.kind == Rule<T>::adam) {
      rule.adam_step = T(eta / (1 - std::pow(mu, t)));
      rule.adam_spread = T(1 / std::sqrt(1 - std::pow(rho, t)));
    }
    return rates[5];
  }

  // The optimizers that take a step for each batch.
  void descend(Run &run) {
    const int64_t at = run.by.member * shape_.parameters;
    T *velocity = velocity_.data() + at, *square = square_.empty() ? nullptr : square_.data() + at;
    Rule<T> rule{};
    constexpr decltype(rule.kind) kinds[] = {Rule<T>::sgd, Rule<T>::nesterov, Rule<T>::adam, Rule<T>::rmsprop};
    rule.kind = kinds[run.optimizer.kind];
    for (int64_t step = run.first_step; step < run.first_step + run.steps; step++) {
      if (step % steps_per_epoch_ == 0) run.progress.epoch_cost = run.progress.epoch_weight = 0;
      const double clip = rule_of(run, step, rule);
      const Taken taken = stepper_.take(step, run.by, run.current, run.next, velocity, square, rule, clip);
      if (taken.weight > 0) { // else every sample of the batch has weight 0: it is skipped
        if (!taken.finite) return end(run, diverged, step);
        adopt(run);
        run.progress.epoch_cost += taken.cost;
        run.progress.epoch_weight += taken.weight;
      }
      if ((step + 1) % steps_per_epoch_ == 0 && !record(run, step)) return;
    }
  }

  // What was stepped to becomes current, and enters the average.
  void adopt(Run &run) {
    std::swap(run.current, run.next);
    run.progress.steps++;
    if (average_decay_ == 0) return;
    // The others only read what is current, until the leader meets them at the next barrier.
    const double n = run.progress.averaged++, decay = std::min(average_decay_, (1 + n) / (10 + n));
    if (!run.by.leads()) return;
    T *average = average_.data() + run.by.member * shape_.parameters;
    for (ptrdiff_t i = 0; i < shape_.parameters; i++) average[i] = T(decay) * average[i] + T(1 - decay) * run.current[i];
  }

  void end(Run &run, Fate fate, int64_t step) {
    if (run.by.leads()) fate_[run.by.member] = fate, fate_epoch_[run.by.member] = step / steps_per_epoch_ + 1;
  }

  // Notes the cost of the epoch that ends with a step, and looks at the validation cost; returns whether the member goes on.
  bool record(Run &run, int64_t step) {
    Progress &progress = run.progress;
    const int64_t epoch = step / steps_per_epoch_ + 1, at = (epoch - 1 - run.first_step / steps_per_epoch_) * members_ + run.by.member;
    if (run.by.leads()) run.costs[at] = progress.epoch_cost / progress.epoch_weight;
    const bool looks = validation_ && (epoch % watch_.every == 0 || epoch == watch_.last_epoch);
    double cost = progress.epoch_cost / progress.epoch_weight;
    if (looks) {
      const double held_out = validation_cost(run.current, run.by);
      if (run.by.leads()) run.validation_costs[at] = held_out;
      if (!watch_.of_training) cost = held_out;
    } else if (!watch_.of_training) return true;
    const double lowest = progress.best_cost;
    if (watch_.of_training) progress.best_cost = std::min(lowest, cost);
    if (cost < lowest - watch_.min_delta) {
      progress.best_cost = cost, progress.best_epoch = (double)epoch;
      if (run.by.leads() && !best_.empty() && !watch_.of_training)
        std::copy_n(run.current, shape_.parameters, best_.data() + run.by.member * shape_.parameters);
    } else if (watch_.patience >= 0 && (double)epoch - progress.best_epoch >= (double)watch_.patience) {
      end(run, stopped, step);
      return false;
    }
    return true;
  }

  // L-BFGS: a step is an iteration, on all samples. All threads of the team go through the search; what needs one pass over the
  // parameters is the leader's.
  void iterate(Run &run) {
    Team<T> &team = run.by.team;
    const ptrdiff_t p = shape_.parameters;
    T *const pairs = pairs_.data() + run.by.member * 2 * history_ * p;
    int64_t evaluations = 0, kept = kept_pairs_[run.by.member];
    const double tolerance = run.optimizer.rates[6 * run.by.member];
    Taken now = stepper_.evaluate(evaluations++, run.by, run.current, team.gradient.data());
    if (!now.finite || now.weight == 0) return end(run, diverged, run.first_step);
    for (int64_t step = run.first_step; step < run.first_step + run.steps; step++) {
      const double cost = now.cost / now.weight;
      double accepted = 0;
      bool done = false;
      for (int attempt = 0; attempt < 2 && accepted == 0 && !done; attempt++) { // the second along the gradient alone
        if (attempt) kept = 0;
        if (run.by.leads()) aim(team, pairs, kept, tolerance);
        team.barrier.wait();
        const double slope = team.told[0], first = team.told[1];
        done = team.told[2] != 0;
        team.barrier.wait();
        if (done) break;
        LineSearch search(cost, slope, first, 4 * std::numeric_limits<T>::epsilon() * std::abs(cost));
        double tried;
        for (bool over = false; !over;) {
          tried = search.next();
          now = look(run, tried, evaluations);
          over = search.take(now.finite ? now.cost / now.weight : no_cost, team.told[0]);
        }
        accepted = search.accepted();
        if (accepted > 0 && accepted != tried) now = look(run, accepted, evaluations);
        if (kept == 0) break;
      }
      run.progress.epoch_cost = cost, run.progress.epoch_weight = 1;
      if (accepted > 0) {
        if (run.by.leads()) {
          keep_pair(run, pairs, kept);
          team.gradient.swap(team.trial_gradient);
        }
        team.barrier.wait();
        kept = (int64_t)team.told[3];
        adopt(run);
      }
      if (run.by.leads()) kept_pairs_[run.by.member] = kept;
      const bool goes_on = record(run, step);
      if (accepted == 0) return end(run, converged, step);
      if (!goes_on) return;
    }
  }

  // The leader's: direction and slope from the pairs; told: the slope, the first step to try, whether the gradient is within tolerance.
  void aim(Team<T> &team, const T *pairs, int64_t kept, double tolerance) {
    const ptrdiff_t p = shape_.parameters;
    T *direction = team.direction.data();
    const T *gradient = team.gradient.data();
    double largest = 0, sum = 0;
    for (ptrdiff_t i = 0; i < p; i++) {
      largest = std::max(largest, (double)std::abs(gradient[i]));
      sum += std::abs(gradient[i]);
    }
    lbfgs_direction(pairs, kept, history_, p, gradient, direction);
    double slope = dot(gradient, direction, p);
    const bool downhill = slope < 0 && std::isfinite(slope);
    if (!downhill) lbfgs_direction(pairs, 0, history_, p, gradient, direction), slope = dot(gradient, direction, p);
    team.told[0] = slope;
    team.told[1] = kept && downhill ? 1 : std::min(1., 1 / sum);
    team.told[2] = largest <= tolerance || sum == 0;
  }

  // next <- current + t direction; cost and gradient there, and told[0] <- its slope along the direction.
  Taken look(Run &run, double t, int64_t &evaluations) {
    Team<T> &team = run.by.team;
    const ptrdiff_t p = shape_.parameters;
    if (run.by.leads())
      for (ptrdiff_t i = 0; i < p; i++) run.next[i] = run.current[i] + T(t) * team.direction[i];
    const Taken found = stepper_.evaluate(evaluations++, run.by, run.next, team.trial_gradient.data());
    if (run.by.leads()) team.told[0] = dot(team.trial_gradient.data(), team.direction.data(), p);
    team.barrier.wait();
    return found;
  }

  // Keeps the step and the change of the gradient, if their product is positive; told[3] <- how many were ever kept.
  void keep_pair(Run &run, T *pairs, int64_t kept) {
    Team<T> &team = run.by.team;
    const ptrdiff_t p = shape_.parameters;
    T *s = pairs + kept % history_ * 2 * p, *y = s + p;
    for (ptrdiff_t i = 0; i < p; i++) {
      s[i] = run.next[i] - run.current[i];
      y[i] = team.trial_gradient[i] - team.gradient[i];
    }
    team.told[3] = double(kept + (dot(s, y, p) > std::numeric_limits<T>::epsilon() * dot(y, y, p)));
  }

  int tiles_of_validation(int64_t samples) const {
    const int64_t panels = round_up(samples, width<T>) / width<T>;
    return int((panels + tile_panels_ - 1) / tile_panels_);
  }

  // The cost on the validation data, by all threads of a team; tiles are added in order.
  double validation_cost(const T *parameters, Worker<T> &by) {
    Team<T> &team = by.team;
    TileBuffers<T> &buffers = by.buffers;
    const HeldOut &own = held_out_[by.member];
    const Batch batch{own.first, own.count, Order::given, false, {}, {}, false, 0};
    const int64_t panels = round_up(own.count, width<T>) / width<T>;
    const int tiles = tiles_of_validation(own.count);
    team.items.run(by.thread, tiles, [&](int tile) {
      const int64_t first = (int64_t)tile * tile_panels_;
      const Tile<T> at = validation_->tile(batch, first, (int)std::min<int64_t>(tile_panels_, panels - first), buffers);
      forward_tile(shape_, parameters, at.x, buffers.a.data(), buffers.z.data(), at.panels);
      team.validation[tile] = output_tile(shape_, stepper_.loss(), at, buffers.a.data(), buffers.z.data());
    });
    team.barrier.wait();
    double total = 0;
    for (int tile = 0; tile < tiles; tile++) total += team.validation[tile];
    if (by.leads()) team.items.reset(); // nobody takes an item before the next barrier
    team.barrier.wait();
    return total / own.weight;
  }

  Stepper<T> stepper_;
  const Shape &shape_;
  T *parameters_; // (members, p), the caller's
  int64_t members_;
  double average_decay_;
  std::unique_ptr<Samples<T>> validation_;
  std::vector<HeldOut> held_out_; // one a member
  schuss_watch watch_{1, 0, -1, 0, 0, 1};
  int64_t steps_per_epoch_;
  int threads_ = 1, tile_panels_ = 1, family_ = -1, history_ = 0;
  Buffer<T> velocity_, square_, average_, best_; // (members, p)
  Buffer<T> pairs_;                              // (members, history, 2, p)
  std::vector<int32_t> fate_;
  std::vector<int64_t> fate_epoch_, kept_pairs_;
  std::vector<Progress> progress_;
  std::vector<Team<T>> teams_;
  std::vector<TileBuffers<T>> buffers_; // one a thread
};

/* The update: sums of partial gradients, the optimizer, who goes on. */

/* How many of the ROWS sums a step has filled. */
DEVICE int rows_filled(int64_t step) {
#if TILED
  const int64_t tiles = (batch_count(step) + TILE - 1) / TILE;
  return (int)LEAST((int64_t)ROWS, tiles);
#else
  return ROWS;
#endif
}
/* And how many of the COST_ROWS sums of costs. */
DEVICE int costs_filled(int64_t step) {
#if TILED
  return rows_filled(step);
#else
  return COST_ROWS;
#endif
}
/* cost, weight <- the sums over rows of what pairs of sums hold, for all threads. */
DEVICE void totals(GLOBAL const wide *sums, int count, LOCAL wide *scratch, wide *cost, wide *weight) {
  BARRIER;
  if (THREAD < 16) {
    wide total = 0;
    for (int r = THREAD / 2; r < count; r += 8) total += sums[2 * r + THREAD % 2];
    scratch[THREAD] = total;
  }
  BARRIER;
  *cost = *weight = 0;
  for (int k = 0; k < 8; k++) *cost += scratch[2 * k], *weight += scratch[2 * k + 1];
  BARRIER;
}
/* The i-th entry of the sum over rows: eight chains, then their sum, in an order that is always the same. */
DEVICE real summed(GLOBAL const real *rows_of_slot, int count, int64_t i) {
  real chain[8];
  UNROLL for (int k = 0; k < 8; k++) chain[k] = 0;
  int r = 0;
  for (; r + 8 <= count; r += 8)
    UNROLL for (int k = 0; k < 8; k++) chain[k] += rows_of_slot[(r + k) * (int64_t)P + i];
  UNROLL for (int k = 0; k < 8; k++)
    if (r + k < count) chain[k] += rows_of_slot[(r + k) * (int64_t)P + i];
  real total = chain[0];
  UNROLL for (int k = 1; k < 8; k++) total += chain[k];
  return total;
}
/* The i-th entry of the gradient, with the penalties. */
DEVICE real gradient_at(real sum, real W, int64_t i, real l2, real l1, real scale) {
  return (i < WEIGHTS ? sum + l2 * W + l1 * SIGN(W) : sum) * scale;
}
#define SLICE_LENGTH ((P + slices - 1) / slices)
#define FOR_SLICE(i) \
  for (int64_t i = (int64_t)slice * SLICE_LENGTH + THREAD, end = LEAST((int64_t)P, ((int64_t)slice + 1) * SLICE_LENGTH); i < end; i += THREADS)

/* notes of a slice <- the sum of the squares of its gradient. */
DEVICE void norm_of_slice(SESSION, int member, int slot, int slice, int slices, int64_t step, wide weight,
                          LOCAL wide *scratch) {
  GLOBAL const real *own = parameters + (int64_t)member * P;
  const real l2 = (real)penalties[2 * member], l1 = (real)penalties[2 * member + 1], scale = (real)(1 / weight);
  wide squares = 0;
  FOR_SLICE(i) {
    const real G = gradient_at(summed(partial + (int64_t)slot * ROWS * P, rows_filled(step), i), own[i], i, l2, l1, scale);
    squares += (wide)G * (wide)G;
  }
  squares = sum_of_group(squares, scratch);
  if (THREAD == 0) notes[((int64_t)slot * SLICES + slice) * NOTES + SQUARES] = squares;
}

/* A rate of a step: the member's value times the step's factor. */
DEVICE wide rate(GLOBAL const int64_t *orders, GLOBAL const wide *rates, GLOBAL const wide *factors, int member, int64_t step,
                 int column) {
  const wide base = rates[6 * member + column];
  return orders[HAS_FACTORS] ? base * factors[6 * (step - orders[FIRST_STEP]) + column] : base;
}

/* next, velocity, square <- those after a step; notes <- whether all is finite, the penalty, the decay of the average. */
DEVICE void update_slice(SESSION, int member, int slot, int slice, int slices, int64_t step, wide weight,
                         LOCAL wide *scratch) {
  const int64_t home = (int64_t)member * P;
  const int kind = (int)orders[KIND];
  const real l2 = (real)penalties[2 * member], l1 = (real)penalties[2 * member + 1], scale = (real)(1 / weight);
  wide clip = 1, spread = 1, advance = 1;
  BARRIER;
  if (THREAD == 0) {
    const wide most = rate(orders, rates, factors, member, step, 5);
    const wide t = progress[PROGRESS * member + STEPS_TAKEN] + 1;
    if (most > 0 && kind != GRADIENT_ONLY) {
      wide squares = 0;
      for (int s = 0; s < slices; s++) squares += notes[((int64_t)slot * SLICES + s) * NOTES + SQUARES];
      if (sqrt(squares) > most) clip = most / sqrt(squares);
    }
    if (kind == ADAM) {
      advance = 1 / (1 - pow(rate(orders, rates, factors, member, step, 2), t));
      spread = 1 / sqrt(1 - pow(rate(orders, rates, factors, member, step, 3), t));
    }
    scratch[0] = clip, scratch[1] = advance, scratch[2] = spread;
  }
  BARRIER;
  const wide rate0 = rate(orders, rates, factors, member, step, 0);
  const real shorter = (real)scratch[0], adam_step = (real)(rate0 * scratch[1]), adam_spread = (real)scratch[2];
  const real eta = (real)rate0, keep_weights = (real)(1 - rate0 * rate(orders, rates, factors, member, step, 1));
  const real mu = (real)rate(orders, rates, factors, member, step, 2), rho = (real)rate(orders, rates, factors, member, step, 3);
  const real epsilon = (real)rate(orders, rates, factors, member, step, 4);
  BARRIER;
  wide infinite = 0, penalty = 0;
  if (weight > 0 || kind == GRADIENT_ONLY) FOR_SLICE(i) { /* else every sample of the batch has weight 0: it is skipped */
    const real W = parameters[home + i];
    real G = gradient_at(summed(partial + (int64_t)slot * ROWS * P, rows_filled(step), i), W, i, l2, l1, scale), after;
    const real keep = i < WEIGHTS ? keep_weights : (real)1;
    if (i < WEIGHTS) penalty += (wide)0.5 * (wide)l2 * (wide)W * (wide)W + (wide)l1 * (wide)fabs(W);
    if (kind == GRADIENT_ONLY) after = G;
    else {
      G *= shorter;
      real v = velocity[home + i];
      if (kind == ADAM || kind == RMSPROP) {
        const real s = MEAN_OF(square[home + i], G * G, rho);
        v = kind == ADAM ? MEAN_OF(v, G, mu) : RMSPROP_VELOCITY(v, G, s, eta, mu, epsilon);
        square[home + i] = s;
        after = kind == ADAM ? MOVED(W, keep, ADAM_MOVE(v, s, adam_step, adam_spread, epsilon)) : MOVED(W, keep, SGD_MOVE(v));
      } else if (i >= WEIGHTS && !orders[BIAS_MOMENTUM]) after = W - eta * G;
      else {
        v = SGD_VELOCITY(v, G, eta, mu);
        after = kind == NESTEROV ? MOVED(W, keep, NESTEROV_MOVE(v, G, eta, mu)) : MOVED(W, keep, SGD_MOVE(v));
      }
      velocity[home + i] = v;
    }
    next[home + i] = after;
    if (!(fabs(after) <= LARGEST)) infinite = 1;
  }
  infinite = sum_of_group(infinite, scratch);
  penalty = sum_of_group(penalty, scratch);
  if (THREAD == 0) {
    GLOBAL wide *note = notes + ((int64_t)slot * SLICES + slice) * NOTES;
    const wide n = progress[PROGRESS * member + AVERAGED], decay = (1 + n) / (10 + n);
    note[INFINITE] = infinite, note[PENALTY] = penalty;
    note[DECAY] = decay < (wide)AVERAGE ? decay : (wide)AVERAGE;
  }
}

/* parameters <- next, if the step is adopted, and the books are kept. Returns whether the member goes on; `adopted` likewise. */
DEVICE int adopt_slice(SESSION, int member, int slot, int slice, int slices, int64_t step, wide cost, wide weight,
                       int *adopted) {
  GLOBAL const wide *note = notes + (int64_t)slot * SLICES * NOTES;
  GLOBAL wide *sums = progress + PROGRESS * member;
  const int keeps_books = slice == 0 && THREAD == 0, first_batch = step % STEPS_PER_EPOCH == 0;
  const int64_t home = (int64_t)member * P;
  wide infinite = 0;
  for (int s = 0; s < slices; s++) infinite += note[s * NOTES + INFINITE], cost += note[s * NOTES + PENALTY];
  const int finite = infinite == 0 && fabs(cost) <= (wide)LARGEST_WIDE;
  *adopted = weight > 0 && finite;
  if (*adopted) {
    const real share = (real)note[slice * NOTES + DECAY], rest = (real)(1 - note[slice * NOTES + DECAY]);
    FOR_SLICE(i) {
      const real W = next[home + i];
      parameters[home + i] = W;
#if AVERAGES
      average[home + i] = share * average[home + i] + rest * W;
#endif
    }
  }
  if (keeps_books) {
    at[member] = step + 1;
    if (first_batch) sums[EPOCH_COST] = sums[EPOCH_WEIGHT] = 0;
    if (*adopted) {
      sums[EPOCH_COST] += cost, sums[EPOCH_WEIGHT] += weight;
      sums[STEPS_TAKEN] += 1;
#if AVERAGES
      sums[AVERAGED] += 1;
#endif
    } else if (weight > 0) {
      fate[member] = DIVERGED;
      fate_epoch[member] = step / STEPS_PER_EPOCH + 1;
    }
    if ((step + 1) % STEPS_PER_EPOCH == 0 && (*adopted || !(weight > 0))) {
      const int64_t row = step / STEPS_PER_EPOCH - orders[FIRST_STEP] / STEPS_PER_EPOCH;
      costs[row * MEMBERS + member] = sums[EPOCH_COST] / sums[EPOCH_WEIGHT];
    }
  }
  return *adopted || !(weight > 0);
}

/* Whether the validation cost is looked at after an epoch. */
DEVICE int validates(GLOBAL const int64_t *orders, int64_t epoch) {
  return HELD_OUT && (epoch % orders[EVERY] == 0 || epoch == orders[LAST_EPOCH]);
}
/* After an epoch: the validation cost, the best parameters, and who no longer improves. */
DEVICE void look_at(SESSION, int member, int slot, int64_t epoch, LOCAL wide *scratch) {
  wide held_out_cost = 0, weight;
  const int looks = validates(orders, epoch), of_training = (int)orders[OF_TRAINING];
  if (looks) {
    totals(held_out_sums + (int64_t)slot * HELD_OUT_ROWS * 2, HELD_OUT_ROWS, scratch, &held_out_cost, &weight);
    held_out_cost /= weight;
  }
  BARRIER;
  GLOBAL wide *sums = progress + PROGRESS * member;
  const wide cost = of_training ? sums[EPOCH_COST] / sums[EPOCH_WEIGHT] : held_out_cost, lowest = sums[BEST_COST];
  const int improved = cost < lowest - min_delta[0];
  const int over = !improved && orders[PATIENCE] >= 0 && (wide)epoch - sums[BEST_EPOCH] >= (wide)orders[PATIENCE];
  BARRIER;
  if (improved && orders[PATIENCE] >= 0 && !of_training)
    for (int i = THREAD; i < P; i += THREADS) best[(int64_t)member * P + i] = parameters[(int64_t)member * P + i];
  if (THREAD == 0) {
    if (looks) held_out_costs[(epoch - 1 - orders[FIRST_STEP] / STEPS_PER_EPOCH) * MEMBERS + member] = held_out_cost;
    if (of_training && cost < lowest) sums[BEST_COST] = cost;
    if (improved) sums[BEST_COST] = cost, sums[BEST_EPOCH] = (wide)epoch;
    if (over) fate[member] = STOPPED, fate_epoch[member] = epoch;
  }
}
KERNEL look(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  if (fate[member] == RUNNING) look_at(SESSION_GIVEN, member, GROUP_Y, at[member] / STEPS_PER_EPOCH, scratch);
}

/* The three parts of an update, each over SLICES of the parameters. */
KERNEL norm_squares(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  if (takes_part(orders, fate, member, TRAINING)) {
    wide cost, weight;
    totals(row_sums + (int64_t)GROUP_Y * COST_ROWS * 2, costs_filled(at[member]), scratch, &cost, &weight);
    norm_of_slice(SESSION_GIVEN, member, GROUP_Y, GROUP_X, SLICES, at[member], weight, scratch);
  }
}
KERNEL update(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  if (takes_part(orders, fate, member, TRAINING)) {
    wide cost, weight;
    totals(row_sums + (int64_t)GROUP_Y * COST_ROWS * 2, costs_filled(at[member]), scratch, &cost, &weight);
    update_slice(SESSION_GIVEN, member, GROUP_Y, GROUP_X, SLICES, at[member], weight, scratch);
  }
}
/* Other slices may see `at` and `fate` before or after the first one has written them: what they do is the same. */
KERNEL adopt(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  if (fate[member] == RUNNING) {
    wide cost, weight;
    int adopted;
    totals(row_sums + (int64_t)GROUP_Y * COST_ROWS * 2, costs_filled(at[member]), scratch, &cost, &weight);
    adopt_slice(SESSION_GIVEN, member, GROUP_Y, GROUP_X, SLICES, at[member], cost, weight, &adopted);
  }
}
/* All of it by one group. */
KERNEL settle(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  if (fate[member] == RUNNING) {
    const int64_t now = at[member];
    wide cost, weight;
    int adopted;
    totals(row_sums + (int64_t)GROUP_Y * COST_ROWS * 2, costs_filled(now), scratch, &cost, &weight);
    if (orders[CLIPS]) norm_of_slice(SESSION_GIVEN, member, GROUP_Y, 0, 1, now, weight, scratch);
    update_slice(SESSION_GIVEN, member, GROUP_Y, 0, 1, now, weight, scratch);
    BARRIER;
    adopt_slice(SESSION_GIVEN, member, GROUP_Y, 0, 1, now, cost, weight, &adopted);
  }
}
/* costs (members,) <- the cost of a batch, after an update that only left the gradient in next. */
KERNEL value(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y;
  wide cost, weight;
  totals(row_sums + (int64_t)GROUP_Y * COST_ROWS * 2, costs_filled(at[member]), scratch, &cost, &weight);
  for (int s = 0; s < SLICES; s++) cost += notes[((int64_t)GROUP_Y * SLICES + s) * NOTES + PENALTY];
  if (THREAD == 0) costs[member] = cost / weight;
}

/* What a step sees: which rows a batch has, their weights and noise; the cost of a sample; a sum over a group. */
enum { TRAINING, VALIDATION, PREDICTION }; /* the rows that a kernel works on */
enum { RUNNING, DIVERGED, STOPPED };
enum { EPOCH_COST, EPOCH_WEIGHT, BEST_COST, BEST_EPOCH, STEPS_TAKEN, AVERAGED, PROGRESS };
enum { FIRST_STEP, STEPS, KIND, BIAS_MOMENTUM, HAS_FACTORS, EVERY, LAST_EPOCH, PATIENCE, EVERYONE, PREDICTED, CLIPS, OF_TRAINING }; /* of orders */
enum { GRADIENT_ONLY, SGD, NESTEROV, ADAM, RMSPROP };
enum { INFINITE, PENALTY, DECAY, SQUARES, NOTES }; /* what a slice of an update leaves for the others */

CONSTANT real cost_options[DL] = {COST_OPTIONS};

DEVICE int takes_part(GLOBAL const int64_t *orders, GLOBAL const int32_t *fate, int member, int source) {
  return fate[member] == RUNNING || orders[EVERYONE] || source == PREDICTION;
}
/* How many rows a step uses. */
DEVICE int64_t batch_count(int64_t step) {
  const int64_t first = step % STEPS_PER_EPOCH * BATCH;
  return LEAST((int64_t)BATCH, (int64_t)SAMPLES - first);
}
DEVICE int64_t rows_of_source(GLOBAL const int64_t *orders, int64_t step, int source) {
  return source == TRAINING ? batch_count(step) : source == VALIDATION ? (int64_t)HELD_OUT : orders[PREDICTED];
}

DEVICE uint32_t walk(uint32_t x, uint32_t n, const uint32_t *keys) {
  int bits = 4;
  while (bits < 32 && ((uint64_t)1 << bits) < n) bits++;
  do { FEISTEL(uint32_t, x, bits, keys); } while (x >= n);
  return x;
}
/* The row at a position of an epoch's order. */
DEVICE uint32_t row_at(uint32_t position, LOCAL const uint32_t *shared_keys) {
#if ORDER == 0
  return position;
#else
  uint32_t keys[8];
  for (int k = 0; k < 8; k++) keys[k] = shared_keys[k];
#if ORDER == 1
  return walk(position, SAMPLES, keys);
#else /* blocks of rows, and the rows of a window of blocks: schuss/philox.py */
  const uint32_t whole = SAMPLES / BLOCK_ROWS * BLOCK_ROWS, window = BLOCK_ROWS * WINDOW_BLOCKS;
  const uint32_t begin = position < whole ? position / window * window : whole;
  const uint32_t size = position < whole ? LEAST(window, whole - begin) : SAMPLES - whole;
  uint32_t own[8];
  for (int k = 0; k < 8; k++) own[k] = keys[k] + (begin / window + 1) * 0x9E3779B9u;
  const uint32_t within = walk(position - begin, size, own);
  if (position >= whole) return whole + within;
  return walk((begin + within) / BLOCK_ROWS, whole / BLOCK_ROWS, keys) * BLOCK_ROWS + within % BLOCK_ROWS;
#endif
#endif
}
DEVICE void shuffle_keys_of(GLOBAL const uint64_t *shuffle_seeds, int member, int64_t step, LOCAL uint32_t *keys) {
  uint32_t own[8];
  shuffle_keys(shuffle_seeds[member], (uint64_t)(step / STEPS_PER_EPOCH), own);
  for (int k = 0; k < 8; k++) keys[k] = own[k];
}
DEVICE void noise_keys_of(uint64_t seed, int64_t step, int layer, LOCAL uint32_t *keys) {
  uint32_t own[4];
  noise_keys(seed, (uint64_t)step, layer, own);
  for (int k = 0; k < 4; k++) keys[k] = own[k];
}
DEVICE int kept(LOCAL const uint32_t *keys, uint32_t position, uint32_t unit, uint32_t threshold) {
  uint32_t word;
  NOISE_WORD(uint32_t, word, position, unit, keys);
  return word >= threshold;
}
/* Normal noise for a sample and a column, by Box and Muller. */
DEVICE real noise(uint32_t position, uint32_t column, LOCAL const uint32_t *keys) {
  uint32_t first, second;
  NOISE_WORD(uint32_t, first, position, column, keys);
  NOISE_WORD(uint32_t, second, position, column | 0x80000000u, keys);
  const wide radius = sqrt((wide)-2 * log(((wide)first + 1) * (wide)2.3283064365386963e-10));
  return (real)((wide)INPUT_NOISE * radius * cos((wide)second * (wide)1.4629180792671596e-9));
}
/* The weight of a row for a member. With folds, the validation data are the training data, in the order of their folds. */
DEVICE real weight_of(GLOBAL const real *given, uint32_t row, GLOBAL const uint32_t *bootstrap, GLOBAL const int32_t *folds,
                      GLOBAL const int32_t *left_out, int member, int source) {
  real w = 1;
#if FOLDS
  if (source == TRAINING && folds[row] == left_out[member]) return 0;
  if (source == VALIDATION && folds[SAMPLES + row] != left_out[member]) return 0;
#endif
  if (source == TRAINING) {
#if WEIGHTED
    w = given[row];
#endif
#if BOOTSTRAP
    uint32_t keys[4];
    for (int k = 0; k < 4; k++) keys[k] = bootstrap[4 * member + k];
    w *= (real)bootstrap_weight(row, keys);
#endif
  }
#if HELD_OUT_WEIGHTED
  if (source == VALIDATION) w = given[row];
#endif
  return w;
}

/* The cost of a sample; z[k * stride] <- w times dc/dz, from a (and z where the last activation reads it). */
#define A(k) a[(k) * stride]
DEVICE wide output_delta(GLOBAL const real *y, real w, LAST_SPACE real *a, LAST_SPACE const real *z, int stride) {
#if CROSS_ENTROPY
  real highest = A(0), sum = 0, matched = 0;
  for (int k = 1; k < DL; k++) highest = MAX(highest, A(k));
  for (int k = 0; k < DL; k++) sum += exp(A(k) - highest);
  for (int k = 0; k < DL; k++) {
    const real value = A(k) - highest;
#if TARGETS < DL
    const real given = y[0] == (real)k ? 1 : 0;
#else
    const real given = y[k];
#endif
    const real target = given * (1 - cost_options[0]) + cost_options[0] / (real)DL;
    matched += target * value;
    A(k) = w * (exp(value) / sum - target);
  }
  return (wide)(w * (log(sum) - matched));
#else
  real total = 0;
  for (int k = 0; k < DL; k++) {
    const real target = y[k / (DL / TARGETS)], p = cost_options[k], output = A(k);
#if LAST_READS_INPUT
    const real input = z[k * stride];
#else
    const real input = 0;
#endif
    total += COST_VALUE(target, output, p);
    A(k) = w * COST_DELTA(target, output, p) * LAST_SLOPE(output, input);
  }
  return (wide)(w * total);
#endif
}

/* The sum over the group of a value of each thread, for all threads. */
DEVICE wide sum_of_group(wide value, LOCAL wide *scratch) {
  scratch[THREAD] = value;
  BARRIER;
  for (int apart = THREADS / 2; apart > 0; apart /= 2) {
    if (THREAD < apart) scratch[THREAD] += scratch[THREAD + apart];
    BARRIER;
  }
  const wide total = scratch[0];
  BARRIER;
  return total;
}

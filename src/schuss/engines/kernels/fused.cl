/* Training on a GPU: one text for CUDA and OpenCL, compiled for one plan. gpu.py writes the definitions that it needs before
 * it, and SESSION, the list of all buffers, which every kernel takes; what each buffer holds stands there. P: parameters of a
 * member; D0, DL: inputs and outputs. */

/* -- dialects ------------------------------------------------------------------------------------------------------------- */
#if defined(HOST_DIALECT) /* tests bring their own */
#elif defined(__CUDACC__)
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define KERNEL_OF_FEW extern "C" __global__ void __launch_bounds__(THREADS, SLICES > 1 ? 1 : 2) /* groups on a multiprocessor */
#define DEVICE static __device__ __forceinline__
#define CONSTANT __constant__ const
#define GLOBAL
#define LOCAL
#define SHARED(type, name, count) __shared__ type name[count]
#define TILE_MEMORY(name, count) extern __shared__ real name[]
#define BARRIER __syncthreads()
#define THREAD ((int)threadIdx.x)
#define GROUP_X ((int)blockIdx.x)
#define GROUP_Y ((int)blockIdx.y)
#define ADD_ONE(counter) atomicAdd(counter, 1u)
#define LOOK(counter) (*(volatile uint32_t *)(counter))
#define FENCE __threadfence()
#else
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
typedef uint uint32_t;
typedef int int32_t;
typedef ulong uint64_t;
typedef long int64_t;
#define KERNEL __kernel __attribute__((reqd_work_group_size(THREADS, 1, 1))) void
#define KERNEL_OF_FEW KERNEL
#define DEVICE static inline
#define CONSTANT __constant const
#define GLOBAL __global
#define LOCAL __local
#define SHARED(type, name, count) __local type name[count]
#define TILE_MEMORY(name, count) __local real name[count]
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define THREAD ((int)get_local_id(0))
#define GROUP_X ((int)get_group_id(0))
#define GROUP_Y ((int)get_group_id(1))
#endif
#if STAGED /* a group works on a copy of the parameters that is its own */
#define HELD LOCAL
#else
#define HELD GLOBAL
#endif
#define UNROLL _Pragma("unroll")
#define LEAST(a, b) ((a) < (b) ? (a) : (b))
#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)

/* -- the shared tables ---------------------------------------------------------------------------------------------------- */
#define CONST(x) ((real)(x))
#define EXP exp
#define EXPONENTIAL exp
#define EXPM1 expm1
#define LOG1P log1p
#define SIGMOID(z) (CONST(1) / (CONST(1) + exp(-(z))))
#define SILU(z) ((z) / (CONST(1) + exp(-(z))))
#define TANH tanh
#define PHI(z) (CONST(0.5) * erfc(CONST(-0.70710678118654752440) * (z)))
#define MAX(a, b) ((b) < (a) ? (a) : (b)) /* NaN in b survives */
#define MIN(a, b) ((b) > (a) ? (a) : (b))
#define ABS fabs
#define WHERE_POSITIVE(a, yes, no) ((a) > 0 ? (yes) : (no))
#define SIGN(a) ((a) > 0 ? CONST(1) : (a) < 0 ? CONST(-1) : CONST(0))
#define SQRT sqrt

#define ACTIVATION(name, read, value, derivative)             \
  DEVICE real value_of_##name(real z) { return value; }       \
  DEVICE real slope_of_##name(real a, real z) { return derivative; }
#include "activations.h"
#undef ACTIVATION

#define COST(name, value, derivative)                                   \
  DEVICE real cost_of_##name(real y, real a, real p) { return value; }  \
  DEVICE real delta_of_##name(real y, real a, real p) { return derivative; }
#include "costs.h"
#undef COST

#include "optimizers.h"
#include "random.h"

/* -- what a step sees ----------------------------------------------------------------------------------------------------- */
enum { TRAINING, VALIDATION, PREDICTION }; /* the rows that a kernel works on */
enum { RUNNING, DIVERGED, STOPPED };
enum { EPOCH_COST, EPOCH_WEIGHT, BEST_COST, BEST_EPOCH, STEPS_TAKEN, AVERAGED, PROGRESS };
enum { FIRST_STEP, STEPS, KIND, BIAS_MOMENTUM, HAS_FACTORS, EVERY, LAST_EPOCH, PATIENCE, EVERYONE, PREDICTED, CLIPS }; /* of orders */
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
DEVICE real weight_of(GLOBAL const real *given, uint32_t row, GLOBAL const uint32_t *bootstrap, int member, int source) {
  real w = 1;
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

#if TILED
/* -- narrow networks: a tile of samples goes through the whole network in a group's own memory ------------------------------- */
#define LAST_DELTA (tile + LAST_AT)

#include "layers"

/* A tile of rows into memory: rows' weights w, and x. position: of the tile's first sample in the batch. */
DEVICE void load_tile(SESSION, int member, int64_t step, int64_t position, int64_t count, LOCAL real *tile,
                      LOCAL uint32_t *rows, LOCAL real *w, LOCAL const uint32_t *keys) {
  const int64_t first = source == TRAINING ? step % STEPS_PER_EPOCH * BATCH : 0;
  GLOBAL const real *from = source == TRAINING ? x : source == VALIDATION ? held_out_x : predict_x;
  GLOBAL const real *given = source == TRAINING ? weights : held_out_weights;
  for (int s = THREAD; s < TILE; s += THREADS) {
    const int there = position + s < count;
    const uint32_t at_row = there ? (uint32_t)(first + position + s) : 0;
    rows[s] = source == TRAINING && there ? row_at(at_row, keys) : at_row;
    w[s] = there ? weight_of(given, rows[s], bootstrap, member, source) : (real)0;
  }
  BARRIER;
  for (int i = THREAD; i < TILE * D0; i += THREADS) {
    const int s = i / D0, c = i % D0;
    real value = position + s < count ? from[(int64_t)rows[s] * D0 + c] : (real)0;
#if NOISY
    if (source == TRAINING && position + s < count) value += noise((uint32_t)position + s, c, keys + 8);
#endif
    tile[X_AT + c * LD + s] = value;
  }
  BARRIER;
}

/* The keys of a step's shuffle, [8], and of the noise of each layer from the inputs on, [DEPTH + 1][4]. */
DEVICE void load_keys(SESSION, int member, int64_t step, LOCAL uint32_t *keys) {
  BARRIER;
#if ORDER > 0
  if (THREAD == 0) shuffle_keys_of(shuffle_seeds, member, step, keys);
#endif
#if RANDOM
  if (THREAD >= 1 && THREAD <= DEPTH + 1) noise_keys_of(noise_seeds[member], step, THREAD - 1, keys + 4 + 4 * THREAD);
#endif
  BARRIER;
}

DEVICE void hold(GLOBAL const real *from, LOCAL real *tile) {
#if STAGED
  for (int i = THREAD; i < P; i += THREADS) tile[i] = from[i];
  BARRIER;
#endif
}
#if STAGED
#define HELD_OF(from) tile
#else
#define HELD_OF(from) (from)
#endif

/* Every sample's cost, [TILE] in each; delta <- that of the last layer. */
DEVICE void costs_of_tile(SESSION, LOCAL real *tile, LOCAL const uint32_t *rows, LOCAL const real *w, LOCAL wide *each) {
  GLOBAL const real *targets = source == TRAINING ? y : held_out_y;
  for (int s = THREAD; s < TILE; s += THREADS)
    each[s] = output_delta(targets + (int64_t)rows[s] * TARGETS, w[s], LAST_DELTA + s, tile + LAST_Z + s, LD);
  BARRIER;
}

/* row_sums <- cost and weight of the rows of a tile (or += after the first), in an order that is always the same. */
DEVICE void add_costs(LOCAL const wide *each, LOCAL const real *w, LOCAL wide *scratch, GLOBAL wide *to, int first) {
  if (THREAD < 16) {
    wide total = 0;
    for (int s = THREAD / 2; s < TILE; s += 8) total += THREAD % 2 ? (wide)w[s] : each[s];
    scratch[THREAD] = total;
  }
  BARRIER;
  if (THREAD < 2) {
    wide total = first ? (wide)0 : to[THREAD];
    for (int k = 0; k < 8; k++) total += scratch[2 * k + THREAD];
    to[THREAD] = total;
  }
}

/* partial, row_sums <- what the tiles row, row + ROWS... of a step give. parameters_now: those of the member. */
DEVICE void gradient_of_row(SESSION, int member, int slot, int row, int64_t step, GLOBAL const real *parameters_now,
                            LOCAL real *tile, LOCAL uint32_t *rows, LOCAL real *w, LOCAL uint32_t *keys, LOCAL wide *each,
                            LOCAL wide *scratch) {
  const int64_t count = batch_count(step), tiles = (count + TILE - 1) / TILE;
  GLOBAL real *to = partial + ((int64_t)slot * ROWS + row) * P;
  HELD const real *held = HELD_OF(parameters_now);
#if RANDOM
  LOCAL const uint32_t *noise_from = keys + 8;
#else
  LOCAL const uint32_t *noise_from = 0;
#endif
  for (int64_t t = row; t < tiles; t += ROWS) {
    const int64_t position = t * TILE;
    load_tile(SESSION_GIVEN, member, step, position, count, tile, rows, w, keys);
    FORWARD_LAYERS(held, tile, noise_from, (uint32_t)position)
    costs_of_tile(SESSION_GIVEN, tile, rows, w, each);
    BACKWARD_LAYERS(held, tile, noise_from, (uint32_t)position)
    GRADIENT_LAYERS(tile, to, t == row)
    add_costs(each, w, scratch, row_sums + ((int64_t)slot * ROWS + row) * 2, t == row);
    BARRIER;
  }
}

#define TILE_LOCALS                      \
  TILE_MEMORY(tile, TILE_SIZE);          \
  SHARED(uint32_t, rows, TILE);          \
  SHARED(real, w, TILE);                 \
  SHARED(uint32_t, keys, 12 + 4 * DEPTH); \
  SHARED(wide, each, TILE);              \
  SHARED(wide, scratch, THREADS)

/* One of ROWS sums of a step's gradient. */
KERNEL gradient(SESSION) {
  TILE_LOCALS;
  const int member = first_member + GROUP_Y;
  if (takes_part(orders, fate, member, TRAINING)) {
    GLOBAL const real *own = parameters + (int64_t)member * P;
    hold(own, tile);
    load_keys(SESSION_GIVEN, member, at[member], keys);
    gradient_of_row(SESSION_GIVEN, member, GROUP_Y, GROUP_X, at[member], own, tile, rows, w, keys, each, scratch);
  }
}

/* The cost of the rows row, row + HELD_OUT_ROWS... of tiles of the validation data. */
DEVICE void validate_row(SESSION, int slot, int row, GLOBAL const real *parameters_now, LOCAL real *tile,
                         LOCAL uint32_t *rows, LOCAL real *w, LOCAL uint32_t *keys, LOCAL wide *each, LOCAL wide *scratch) {
  HELD const real *held = HELD_OF(parameters_now);
  for (int64_t t = row; t < (HELD_OUT + TILE - 1) / TILE; t += HELD_OUT_ROWS) {
    load_tile(SESSION_GIVEN, 0, 0, t * TILE, HELD_OUT, tile, rows, w, keys);
    FORWARD_LAYERS(held, tile, 0, 0u)
    costs_of_tile(SESSION_GIVEN, tile, rows, w, each);
    add_costs(each, w, scratch, held_out_sums + ((int64_t)slot * HELD_OUT_ROWS + row) * 2, t == row);
    BARRIER;
  }
}
KERNEL validate(SESSION) {
  TILE_LOCALS;
  const int member = first_member + GROUP_Y;
  if (takes_part(orders, fate, member, VALIDATION)) {
    GLOBAL const real *own = parameters + (int64_t)member * P;
    hold(own, tile);
    validate_row(SESSION_GIVEN, GROUP_Y, GROUP_X, own, tile, rows, w, keys, each, scratch);
  }
}

/* predictions (members, PREDICTED, DL) <- the outputs for predict_x. */
KERNEL predict(SESSION) {
  TILE_LOCALS;
  const int member = first_member + GROUP_Y;
  GLOBAL const real *own = parameters + (int64_t)member * P;
  HELD const real *held = HELD_OF(own);
  const int64_t position = (int64_t)GROUP_X * TILE, count = orders[PREDICTED];
  hold(own, tile);
  load_tile(SESSION_GIVEN, member, 0, position, count, tile, rows, w, keys);
  FORWARD_LAYERS(held, tile, 0, 0u)
  for (int i = THREAD; i < TILE * DL; i += THREADS)
    if (position + i / DL < count)
      predictions[((int64_t)member * PREDICT_ROWS + position) * DL + i] = tile[LAST_AT + i % DL * LD + i / DL];
}
#else
/* -- wide networks: the samples of a piece go through one layer after the other in device memory -------------------------------- */
#define SIDE (BLOCK / 4) /* of a product: BLOCK x BLOCK results a group, 4 x 4 a thread, THREADS = SIDE x SIDE */
#define STRIP 16
#define SHARE_OF_ROW ((PIECE + ROWS - 1) / ROWS)
#define SHARE_OF_COST ((PIECE + COST_ROWS - 1) / COST_ROWS)

DEVICE int rows_of_piece(GLOBAL const int64_t *orders, int64_t step, int piece, int source) {
  const int64_t left = rows_of_source(orders, step, source) - (int64_t)piece * PIECE;
  return (int)(left < 0 ? 0 : LEAST(left, (int64_t)PIECE));
}

/* sum[u][r] <- the sum over k in begin..end of left(m, k) right(k, n), m = m0 + THREAD / SIDE + SIDE u below M, n = n0 +
 * THREAD % SIDE + SIDE r below N. left(m, k) lies at left_from[m * left_m + k * left_k], right(k, n) at right_from[k * right_k + n * right_n]. */
DEVICE void product(GLOBAL const real *left_from, int left_m, int left_k, int m0, int M, GLOBAL const real *right_from,
                    int right_k, int right_n, int n0, int N, int begin, int end, LOCAL real *left, LOCAL real *right,
                    real sum[4][4]) {
  UNROLL for (int u = 0; u < 4; u++)
    UNROLL for (int r = 0; r < 4; r++) sum[u][r] = 0;
  for (int k0 = begin; k0 < end; k0 += STRIP) {
    BARRIER;
    for (int i = THREAD; i < STRIP * BLOCK; i += THREADS) { /* neighbours read neighbours */
      const int k = left_k == 1 ? i % STRIP : i / BLOCK, m = left_k == 1 ? i / STRIP : i % BLOCK;
      left[k * (BLOCK + 1) + m] =
          k0 + k < end && m0 + m < M ? left_from[(int64_t)(m0 + m) * left_m + (int64_t)(k0 + k) * left_k] : (real)0;
      const int q = right_k == 1 ? i % STRIP : i / BLOCK, n = right_k == 1 ? i / STRIP : i % BLOCK;
      right[q * (BLOCK + 1) + n] =
          k0 + q < end && n0 + n < N ? right_from[(int64_t)(k0 + q) * right_k + (int64_t)(n0 + n) * right_n] : (real)0;
    }
    BARRIER;
    for (int k = 0; k < STRIP; k++) {
      real a[4], b[4];
      UNROLL for (int u = 0; u < 4; u++) a[u] = left[k * (BLOCK + 1) + THREAD / SIDE + SIDE * u];
      UNROLL for (int r = 0; r < 4; r++) b[r] = right[k * (BLOCK + 1) + THREAD % SIDE + SIDE * r];
      UNROLL for (int u = 0; u < 4; u++)
        UNROLL for (int r = 0; r < 4; r++) sum[u][r] += a[u] * b[r];
    }
  }
}

#include "layers"

/* work <- x and the weights of the rows of a piece, in the order of the step; row_index <- which they are. THREADS rows a group. */
KERNEL gather(SESSION) {
  SHARED(uint32_t, keys, 12);
  const int member = first_member + GROUP_Y, m = GROUP_X * THREADS + THREAD;
  const int64_t now = source == TRAINING ? at[member] : 0;
  const int rows = rows_of_piece(orders, now, piece, source), m0 = GROUP_X * THREADS, here = LEAST(rows - m0, THREADS); /* below 1: none */
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
  GLOBAL uint32_t *index = row_index + (int64_t)GROUP_Y * PIECE;
  GLOBAL const real *from = source == TRAINING ? x : source == VALIDATION ? held_out_x : predict_x;
  if (!takes_part(orders, fate, member, source)) return;
  if (THREAD == 0) {
#if ORDER > 0
    shuffle_keys_of(shuffle_seeds, member, now, keys);
#endif
#if NOISY
    noise_keys_of(noise_seeds[member], now, 0, keys + 8);
#endif
  }
  BARRIER;
  if (m < rows) {
    const uint32_t position = (uint32_t)(now % STEPS_PER_EPOCH * BATCH) + (uint32_t)piece * PIECE + m;
    index[m] = source == TRAINING ? row_at(position, keys) : (uint32_t)piece * PIECE + m;
    own[W_OF_ROWS + m] = weight_of(source == TRAINING ? weights : held_out_weights, index[m], bootstrap, member, source);
  }
  BARRIER;
  for (int i = THREAD; i < here * D0; i += THREADS) {
    real value = from[(int64_t)index[m0 + i / D0] * D0 + i % D0];
#if NOISY
    if (source == TRAINING) value += noise((uint32_t)piece * PIECE + m0 + i / D0, i % D0, keys + 8);
#endif
    own[X_AT + (int64_t)m0 * D0 + i] = value;
  }
#if LIBRARY /* its products take all rows of a piece: those after the last sample are 0, and their delta will be */
  if (m < PIECE) own[ONES + m] = 1;
  for (int c = 0; m >= rows && m < PIECE && c < D0; c++) own[X_AT + (int64_t)m * D0 + c] = 0;
#endif
}

/* The last a <- delta, and the costs and weights of one of COST_ROWS shares of a piece; or predictions <- the last a. */
KERNEL output(SESSION) {
  SHARED(wide, scratch, THREADS);
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, source);
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
  GLOBAL const real *targets = source == TRAINING ? y : held_out_y;
  GLOBAL wide *to = (source == TRAINING ? row_sums : held_out_sums) + ((int64_t)GROUP_Y * COST_ROWS + GROUP_X) * 2;
  if (!takes_part(orders, fate, member, source)) return;
  wide cost = 0, weight = 0;
  for (int m = GROUP_X * SHARE_OF_COST + THREAD; m < LEAST(PIECE, (GROUP_X + 1) * SHARE_OF_COST); m += THREADS) {
    GLOBAL real *a = own + LAST_AT + (int64_t)m * DL;
    if (m >= rows) { /* for the products of a library */
      for (int k = 0; k < DL; k++) a[k] = 0;
      continue;
    }
    if (source == PREDICTION) {
      for (int k = 0; k < DL; k++) predictions[((int64_t)member * PREDICT_ROWS + (int64_t)piece * PIECE + m) * DL + k] = a[k];
      continue;
    }
    const real w = own[W_OF_ROWS + m];
    GLOBAL const real *target = targets + (int64_t)row_index[(int64_t)GROUP_Y * PIECE + m] * TARGETS;
    cost += output_delta(target, w, a, own + LAST_Z + (int64_t)m * DL, 1);
    weight += w;
  }
  cost = sum_of_group(cost, scratch);
  weight = sum_of_group(weight, scratch);
  if (THREAD == 0 && source != PREDICTION) to[0] = piece ? to[0] + cost : cost, to[1] = piece ? to[1] + weight : weight;
}
#endif

/* -- the update: sums of partial gradients, the optimizer, who goes on -------------------------------------------------------- */

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

/* After an epoch: the validation cost, the best parameters, and who no longer improves. */
DEVICE void look_at(SESSION, int member, int slot, int64_t epoch, LOCAL wide *scratch) {
  wide cost, weight;
  totals(held_out_sums + (int64_t)slot * HELD_OUT_ROWS * 2, HELD_OUT_ROWS, scratch, &cost, &weight);
  cost /= weight;
  GLOBAL wide *sums = progress + PROGRESS * member;
  const int improved = cost < sums[BEST_COST] - min_delta[0];
  const int over = !improved && orders[PATIENCE] >= 0 && (wide)epoch - sums[BEST_EPOCH] >= (wide)orders[PATIENCE];
  BARRIER;
  if (improved && orders[PATIENCE] >= 0)
    for (int i = THREAD; i < P; i += THREADS) best[(int64_t)member * P + i] = parameters[(int64_t)member * P + i];
  if (THREAD == 0) {
    held_out_costs[(epoch - 1 - orders[FIRST_STEP] / STEPS_PER_EPOCH) * MEMBERS + member] = cost;
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

#if TILED
/* -- whole epochs in one launch: SLICES groups a member, which meet twice a step --------------------------------------------- */
#if SLICES > 1 /* all groups are on the device at the same time: a cooperative launch */
DEVICE void meet(GLOBAL uint32_t *counter, uint32_t *met) {
  BARRIER;
  *met += SLICES;
  if (THREAD == 0) {
    FENCE;
    ADD_ONE(counter);
    while ((int32_t)(LOOK(counter) - *met) < 0) {}
    FENCE;
  }
  BARRIER;
}
#define MEET meet(counters + GROUP_Y, &met)
#else
#define MEET BARRIER
#endif

KERNEL_OF_FEW epochs(SESSION) {
  TILE_LOCALS;
  const int member = first_member + GROUP_Y, slot = GROUP_Y, me = GROUP_X;
  const int64_t first = orders[FIRST_STEP], end = first + orders[STEPS];
  int goes_on = fate[member] == RUNNING, adopted;
  GLOBAL const real *now = parameters + (int64_t)member * P; /* where the current parameters are */
#if SLICES > 1
  uint32_t met = 0;
#endif
  for (int64_t step = first; goes_on && step < end; step++) {
    wide cost, weight;
    hold(now, tile);
    if (step == first || step % STEPS_PER_EPOCH == 0 || RANDOM) load_keys(SESSION_GIVEN, member, step, keys);
    for (int row = me; row < rows_filled(step); row += SLICES)
      gradient_of_row(SESSION_GIVEN, member, slot, row, step, now, tile, rows, w, keys, each, scratch);
    MEET;
    totals(row_sums + (int64_t)slot * COST_ROWS * 2, costs_filled(step), scratch, &cost, &weight);
    if (orders[CLIPS]) {
      norm_of_slice(SESSION_GIVEN, member, slot, me, SLICES, step, weight, scratch);
      MEET;
    }
    update_slice(SESSION_GIVEN, member, slot, me, SLICES, step, weight, scratch);
    MEET;
    goes_on = adopt_slice(SESSION_GIVEN, member, slot, me, SLICES, step, cost, weight, &adopted);
    /* The others are still copying their slices home: until all have met again, `next` is where all of them are. */
    now = adopted ? next + (int64_t)member * P : parameters + (int64_t)member * P;
#if HELD_OUT
    const int64_t epoch = (step + 1) / STEPS_PER_EPOCH;
    if (goes_on && (step + 1) % STEPS_PER_EPOCH == 0 && (epoch % orders[EVERY] == 0 || epoch == orders[LAST_EPOCH])) {
      hold(now, tile);
      for (int row = me; row < HELD_OUT_ROWS; row += SLICES)
        validate_row(SESSION_GIVEN_FOR_VALIDATION, slot, row, now, tile, rows, w, keys, each, scratch);
      MEET;
      if (me == 0) look_at(SESSION_GIVEN, member, slot, epoch, scratch);
      MEET;
      goes_on = fate[member] == RUNNING;
    }
#endif
    BARRIER;
  }
}
#endif

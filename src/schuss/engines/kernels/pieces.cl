/* Wide networks: the samples of a piece go through one layer after the other in device memory. */
#define STRIP 16
#define SHARE_OF_ROW ((PIECE + ROWS - 1) / ROWS)
#define SHARE_OF_COST ((PIECE + COST_ROWS - 1) / COST_ROWS)

DEVICE int rows_of_piece(GLOBAL const int64_t *orders, int64_t step, int piece, int source) {
  const int64_t left = rows_of_source(orders, step, source) - (int64_t)piece * PIECE;
  return (int)(left < 0 ? 0 : LEAST(left, (int64_t)PIECE));
}

/* sum[u][r] <- the sum over k in begin..end of left(m, k) right(k, n), m = m0 + THREAD_ROW + SIDE u below M, n = n0 +
 * THREAD_COLUMN + SIDE r below N. left(m, k) lies at left_from[m * left_m + k * left_k], right(k, n) at right_from[k * right_k + n * right_n]. */
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
      UNROLL for (int u = 0; u < 4; u++) a[u] = left[k * (BLOCK + 1) + THREAD_ROW + SIDE * u];
      UNROLL for (int r = 0; r < 4; r++) b[r] = right[k * (BLOCK + 1) + THREAD_COLUMN + SIDE * r];
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
    own[W_OF_ROWS + m] = weight_of(source == TRAINING ? weights : held_out_weights, index[m], bootstrap, folds, left_out, member,
                                   source);
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

/* One layer on a GPU, included once for each layer. program.py defines before: LAYER, its number from 1; NI, NO, its inputs and
 * outputs; W_AT, B_AT, where its weights and biases begin in the flat vector; VALUE, its activation; READS_INPUT, whether the
 * derivative reads z; DROP, the share that dropout takes from its outputs (0: none); and of the layer before it BEFORE_SLOPE,
 * BEFORE_READS_INPUT, BEFORE_DROP. */
#define NAME(word) JOINED(word, LAYER)

#if TILED
/* A tile: unit u of sample s lies at u * LD + s. A_IN, A_OUT: where a of the layer before and of this one lie in it; Z_IN, Z_OUT:
 * z, where kept; D_IN, D_OUT: delta. A thread computes BU units of BS samples, JB x IB weights of the gradient. LANES: tiles.cl. */
#define COLUMNS (TILE / BS)
#define I_BLOCKS ((NI + IB - 1) / IB)
#define J_BLOCKS ((NO + JB - 1) / JB)

/* a <- f(W a_prev + b), a tile. */
DEVICE void NAME(forward)(HELD const real *held, LOCAL real *tile, LOCAL const uint32_t *keys, uint32_t position) {
  for (int block = FIRST_BLOCK; block < BLOCKS((NO + BU - 1) / BU, COLUMNS); block += NEXT_BLOCK) {
    const int s = COLUMN_OF(block, COLUMNS), j0 = ROW_OF(block, COLUMNS) * BU;
    real z[BU][BS];
    UNROLL for (int u = 0; u < BU; u++)
      UNROLL for (int r = 0; r < BS; r++) z[u][r] = held[B_AT + LEAST(j0 + u, NO - 1)];
    for (int i = 0; i < NI; i++) {
      real given[BS];
      UNROLL for (int r = 0; r < BS; r++) given[r] = tile[A_IN + i * LD + s + r * COLUMNS];
      UNROLL for (int u = 0; u < BU; u++) {
        const real W = held[W_AT + LEAST(j0 + u, NO - 1) * NI + i];
        UNROLL for (int r = 0; r < BS; r++) z[u][r] += W * given[r];
      }
    }
    UNROLL for (int u = 0; u < BU; u++)
      UNROLL for (int r = 0; r < BS; r++) {
        const int j = j0 + u, at = s + r * COLUMNS;
        if (j >= NO) continue;
        real a = VALUE(z[u][r]);
#if DROP_MASK
        if (keys) a = kept(keys + 4 * LAYER, position + at, j, DROP_THRESHOLD) ? a * (real)(DROP_FACTOR) : (real)0;
#endif
        tile[A_OUT + j * LD + at] = a;
#if READS_INPUT
        tile[Z_OUT + j * LD + at] = z[u][r];
#endif
      }
  }
}

#if LANES
/* partial <- (or += after the first tile of a row) delta a_prev^T and the sum of delta, over the samples of a tile. The lanes are
 * inputs: a_prev is turned first, sample s of input i to s * TURNED_LD + i. */
DEVICE void NAME(gradient)(LOCAL real *tile, GLOBAL real *partial, int first) {
  LOCAL real *turned = tile + TURNED;
  for (int i = 0; i < NI; i++)
    UNROLL for (int r = 0; r < BS; r++) turned[(THREAD + r * COLUMNS) * TURNED_LD + i] = tile[A_IN + i * LD + THREAD + r * COLUMNS];
  BARRIER;
  for (int j0 = 0; j0 < NO; j0 += JB)
    for (int i0 = 0; i0 < NI; i0 += IB * THREADS) {
      real sum[JB][IB], sum_of_delta[JB];
      UNROLL for (int j = 0; j < JB; j++) {
        sum_of_delta[j] = 0;
        UNROLL for (int i = 0; i < IB; i++) sum[j][i] = 0;
      }
      for (int s = 0; s < TILE; s++) {
        real a[IB];
        UNROLL for (int i = 0; i < IB; i++) a[i] = turned[s * TURNED_LD + i0 + i * THREADS + THREAD];
        UNROLL for (int j = 0; j < JB; j++) {
          const real delta = tile[D_OUT + LEAST(j0 + j, NO - 1) * LD + s];
          sum_of_delta[j] += delta;
          UNROLL for (int i = 0; i < IB; i++) sum[j][i] += delta * a[i];
        }
      }
      UNROLL for (int j = 0; j < JB; j++) {
        if (j0 + j >= NO) continue;
        UNROLL for (int i = 0; i < IB; i++) {
          const int column = i0 + i * THREADS + THREAD, to = W_AT + (j0 + j) * NI + column;
          if (column < NI) partial[to] = first ? sum[j][i] : partial[to] + sum[j][i];
        }
        if (THREAD == 0 && i0 == 0) partial[B_AT + j0 + j] = first ? sum_of_delta[j] : partial[B_AT + j0 + j] + sum_of_delta[j];
      }
    }
  BARRIER;
}
#else
/* partial <- (or += after the first tile of a row) delta a_prev^T and the sum of delta, over the samples of a tile. Threads
 * begin where the layers before it left off, so that small layers share a pass. */
DEVICE void NAME(gradient)(LOCAL const real *tile, GLOBAL real *partial, int first) {
  for (int block = (THREAD + SHIFT) % THREADS; block < I_BLOCKS * J_BLOCKS; block += THREADS) {
    const int i0 = block % I_BLOCKS, j0 = block / I_BLOCKS;
    real sum[JB][IB];
    UNROLL for (int j = 0; j < JB; j++)
      UNROLL for (int i = 0; i < IB; i++) sum[j][i] = 0;
    for (int s = 0; s < TILE; s++) {
      real a[IB];
      UNROLL for (int i = 0; i < IB; i++) a[i] = tile[A_IN + LEAST(i0 + i * I_BLOCKS, NI - 1) * LD + s];
      UNROLL for (int j = 0; j < JB; j++) {
        const real delta = tile[D_OUT + LEAST(j0 + j * J_BLOCKS, NO - 1) * LD + s];
        UNROLL for (int i = 0; i < IB; i++) sum[j][i] += delta * a[i];
      }
    }
    UNROLL for (int j = 0; j < JB; j++)
      UNROLL for (int i = 0; i < IB; i++) {
        const int to = W_AT + (j0 + j * J_BLOCKS) * NI + i0 + i * I_BLOCKS;
        if (i0 + i * I_BLOCKS < NI && j0 + j * J_BLOCKS < NO) partial[to] = first ? sum[j][i] : partial[to] + sum[j][i];
      }
  }
  for (int j = (THREAD + SHIFT + I_BLOCKS * J_BLOCKS) % THREADS; j < NO; j += THREADS) {
    real sum = 0;
    for (int s = 0; s < TILE; s++) sum += tile[D_OUT + j * LD + s];
    partial[B_AT + j] = first ? sum : partial[B_AT + j] + sum;
  }
}
#endif

#if LAYER > 1
/* delta_prev <- f'(a_prev) (W^T delta), a tile. */
DEVICE void NAME(backward)(HELD const real *held, LOCAL real *tile, LOCAL const uint32_t *keys, uint32_t position) {
  const int columns = TILE / BACK_BS;
  for (int block = FIRST_BLOCK; block < BLOCKS((NI + BACK_BU - 1) / BACK_BU, columns); block += NEXT_BLOCK) {
    const int s = COLUMN_OF(block, columns), i0 = ROW_OF(block, columns) * BACK_BU;
    real delta[BACK_BU][BACK_BS];
    UNROLL for (int u = 0; u < BACK_BU; u++)
      UNROLL for (int r = 0; r < BACK_BS; r++) delta[u][r] = 0;
    for (int j = 0; j < NO; j++) {
      real given[BACK_BS];
      UNROLL for (int r = 0; r < BACK_BS; r++) given[r] = tile[D_OUT + j * LD + s + r * columns];
      UNROLL for (int u = 0; u < BACK_BU; u++) {
        const real W = held[W_AT + j * NI + LEAST(i0 + u, NI - 1)];
        UNROLL for (int r = 0; r < BACK_BS; r++) delta[u][r] += W * given[r];
      }
    }
    UNROLL for (int u = 0; u < BACK_BU; u++)
      UNROLL for (int r = 0; r < BACK_BS; r++) {
        const int i = i0 + u, at = s + r * columns;
        if (i >= NI) continue;
        real a = tile[A_IN + i * LD + at], d = delta[u][r];
#if BEFORE_DROP_MASK /* what was kept becomes what it was before dropout: the derivative reads that */
        a *= (real)(1 - BEFORE_DROP);
        d = kept(keys + 4 * (LAYER - 1), position + at, i, BEFORE_DROP_THRESHOLD) ? d * (real)(BEFORE_DROP_FACTOR) : (real)0;
#endif
#if BEFORE_READS_INPUT
        const real z = tile[Z_IN + i * LD + at];
#else
        const real z = 0;
#endif
        tile[D_IN + i * LD + at] = d * BEFORE_SLOPE(a, z);
      }
  }
}
#endif
#undef COLUMNS
#undef I_BLOCKS
#undef J_BLOCKS

#else
/* The samples of a piece in device memory, rows: unit u of sample m of layer l at A_l + m * units + u, of a slot of `work`.
 * delta overwrites a. */

/* a <- f(z) of sample m and unit j, and z, where it is kept. */
DEVICE void NAME(store_output)(GLOBAL real *own, int m, int j, real z, LOCAL const uint32_t *keys, int piece, int source) {
  real a = VALUE(z);
#if DROP_MASK
  if (source == TRAINING) a = kept(keys, piece * PIECE + m, j, DROP_THRESHOLD) ? a * (real)(DROP_FACTOR) : (real)0;
#endif
  own[A_OUT + (int64_t)m * NO + j] = a;
#if READS_INPUT
  own[Z_OUT + (int64_t)m * NO + j] = z;
#endif
}

/* a <- f(W a_prev + b), all samples of a piece; a group computes BLOCK samples x BLOCK units. */
KERNEL NAME(forward)(SESSION) {
  SHARED(real, left, STRIP * (BLOCK + 1));
  SHARED(real, right, STRIP * (BLOCK + 1));
  SHARED(uint32_t, keys, 4);
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, source);
  const int m0 = GROUP_X / ((NO + BLOCK - 1) / BLOCK) * BLOCK, n0 = GROUP_X % ((NO + BLOCK - 1) / BLOCK) * BLOCK;
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
  if (m0 >= rows || !takes_part(orders, fate, member, source)) return;
#if DROP_MASK
  if (THREAD == 0) noise_keys_of(noise_seeds[member], at[member], LAYER, keys);
#endif
  real sum[4][4];
  product(own + A_IN, NI, 1, m0, rows, parameters + (int64_t)member * P + W_AT, 1, NI, n0, NO, 0, NI, left, right, sum);
  UNROLL for (int u = 0; u < 4; u++)
    UNROLL for (int r = 0; r < 4; r++) {
      const int m = m0 + THREAD_ROW + SIDE * u, j = n0 + THREAD_COLUMN + SIDE * r;
      if (m >= rows || j >= NO) continue;
      NAME(store_output)(own, m, j, sum[u][r] + parameters[(int64_t)member * P + B_AT + j], keys, piece, source);
    }
}

/* The same after a library has put W a_prev where a is to be; THREADS units of samples a group. */
KERNEL NAME(activate)(SESSION) {
  SHARED(uint32_t, keys, 4);
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, source);
  const int64_t i = (int64_t)GROUP_X * THREADS + THREAD;
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
#if DROP_MASK
  if (THREAD == 0) noise_keys_of(noise_seeds[member], at[member], LAYER, keys);
#endif
  BARRIER;
  if (i < (int64_t)rows * NO) {
    const real z = own[A_OUT + i] + parameters[(int64_t)member * P + B_AT + i % NO];
    NAME(store_output)(own, (int)(i / NO), (int)(i % NO), z, keys, piece, source);
  }
}

/* partial <- (or += after the first piece) delta a_prev^T; a group computes BLOCK x BLOCK weights of one of ROWS sums. */
KERNEL NAME(gradient)(SESSION) {
  SHARED(real, left, STRIP * (BLOCK + 1));
  SHARED(real, right, STRIP * (BLOCK + 1));
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, TRAINING);
  const int blocks = (NI + BLOCK - 1) / BLOCK, tiles = blocks * ((NO + BLOCK - 1) / BLOCK), row = GROUP_X / tiles;
  const int j0 = GROUP_X % tiles / blocks * BLOCK, i0 = GROUP_X % tiles % blocks * BLOCK;
  GLOBAL const real *own = work + (int64_t)GROUP_Y * WORK;
  GLOBAL real *to = partial + ((int64_t)GROUP_Y * ROWS + row) * P + W_AT;
  if (!takes_part(orders, fate, member, TRAINING)) return;
  real sum[4][4];
  product(own + A_OUT, 1, NO, j0, NO, own + A_IN, NI, 1, i0, NI, LEAST(rows, row * SHARE_OF_ROW),
          LEAST(rows, (row + 1) * SHARE_OF_ROW), left, right, sum);
  UNROLL for (int u = 0; u < 4; u++)
    UNROLL for (int r = 0; r < 4; r++) {
      const int j = j0 + THREAD_ROW + SIDE * u, i = i0 + THREAD_COLUMN + SIDE * r;
      if (j < NO && i < NI) to[(int64_t)j * NI + i] = piece ? to[(int64_t)j * NI + i] + sum[u][r] : sum[u][r];
    }
}

/* The same for the biases; a thread sums one of them. */
KERNEL NAME(bias_gradient)(SESSION) {
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, TRAINING);
  const int groups = (NO + THREADS - 1) / THREADS, row = GROUP_X / groups, j = GROUP_X % groups * THREADS + THREAD;
  if (j >= NO || !takes_part(orders, fate, member, TRAINING)) return;
  GLOBAL const real *delta = work + (int64_t)GROUP_Y * WORK + A_OUT;
  GLOBAL real *to = partial + ((int64_t)GROUP_Y * ROWS + row) * P + B_AT + j;
  real sum = 0;
  for (int m = LEAST(rows, row * SHARE_OF_ROW); m < LEAST(rows, (row + 1) * SHARE_OF_ROW); m++) sum += delta[(int64_t)m * NO + j];
  *to = piece ? *to + sum : sum;
}

#if LAYER > 1
/* a_prev <- d f'(a_prev) of sample m and unit i. */
DEVICE void NAME(store_delta)(GLOBAL real *own, int m, int i, real d, LOCAL const uint32_t *keys, int piece) {
  real a = own[A_IN + (int64_t)m * NI + i];
#if BEFORE_DROP_MASK
  a *= (real)(1 - BEFORE_DROP);
  d = kept(keys, piece * PIECE + m, i, BEFORE_DROP_THRESHOLD) ? d * (real)(BEFORE_DROP_FACTOR) : (real)0;
#endif
#if BEFORE_READS_INPUT
  const real z = own[Z_IN + (int64_t)m * NI + i];
#else
  const real z = 0;
#endif
  own[A_IN + (int64_t)m * NI + i] = d * BEFORE_SLOPE(a, z);
}

/* a_prev <- delta_prev = f'(a_prev) (W^T delta), after the gradient of this layer was taken. */
KERNEL NAME(backward)(SESSION) {
  SHARED(real, left, STRIP * (BLOCK + 1));
  SHARED(real, right, STRIP * (BLOCK + 1));
  SHARED(uint32_t, keys, 4);
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, TRAINING);
  const int m0 = GROUP_X / ((NI + BLOCK - 1) / BLOCK) * BLOCK, n0 = GROUP_X % ((NI + BLOCK - 1) / BLOCK) * BLOCK;
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
  if (m0 >= rows || !takes_part(orders, fate, member, TRAINING)) return;
#if BEFORE_DROP_MASK
  if (THREAD == 0) noise_keys_of(noise_seeds[member], at[member], LAYER - 1, keys);
#endif
  real sum[4][4];
  product(own + A_OUT, NO, 1, m0, rows, parameters + (int64_t)member * P + W_AT, NI, 1, n0, NI, 0, NO, left, right, sum);
  UNROLL for (int u = 0; u < 4; u++)
    UNROLL for (int r = 0; r < 4; r++) {
      const int m = m0 + THREAD_ROW + SIDE * u, i = n0 + THREAD_COLUMN + SIDE * r;
      if (m < rows && i < NI) NAME(store_delta)(own, m, i, sum[u][r], keys, piece);
    }
}

/* The same after a library has put W^T delta into the spare part of work. */
KERNEL NAME(derive)(SESSION) {
  SHARED(uint32_t, keys, 4);
  const int member = first_member + GROUP_Y, rows = rows_of_piece(orders, at[member], piece, TRAINING);
  const int64_t i = (int64_t)GROUP_X * THREADS + THREAD;
  GLOBAL real *own = work + (int64_t)GROUP_Y * WORK;
#if BEFORE_DROP_MASK
  if (THREAD == 0) noise_keys_of(noise_seeds[member], at[member], LAYER - 1, keys);
#endif
  BARRIER;
  if (i < (int64_t)rows * NI) NAME(store_delta)(own, (int)(i / NI), (int)(i % NI), own[SPARE + i], keys, piece);
  else if (i < (int64_t)PIECE * NI) own[A_IN + i] = 0;
}
#endif
#endif
#undef NAME

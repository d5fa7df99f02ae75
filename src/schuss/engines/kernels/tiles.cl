/* Narrow networks: a tile of samples goes through the whole network in a group's own memory. */
#define LAST_DELTA (tile + LAST_AT)

/* How a group shares the blocks of rows x columns that a layer has. LANES: the device is a processor, and the threads of a group are
 * the lanes of a vector, as many as a tile has columns: so what they read lies side by side, or is one number for all. */
#if LANES
#define FIRST_BLOCK 0
#define NEXT_BLOCK 1
#define BLOCKS(rows, columns) (rows)
#define ROW_OF(block, columns) (block)
#define COLUMN_OF(block, columns) THREAD
#else
#define FIRST_BLOCK THREAD
#define NEXT_BLOCK THREADS
#define BLOCKS(rows, columns) ((rows) * (columns))
#define ROW_OF(block, columns) ((block) / (columns))
#define COLUMN_OF(block, columns) ((block) % (columns))
#endif

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
    w[s] = there ? weight_of(given, rows[s], bootstrap, folds, left_out, member, source) : (real)0;
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
DEVICE void validate_row(SESSION, int member, int slot, int row, GLOBAL const real *parameters_now, LOCAL real *tile,
                         LOCAL uint32_t *rows, LOCAL real *w, LOCAL uint32_t *keys, LOCAL wide *each, LOCAL wide *scratch) {
  HELD const real *held = HELD_OF(parameters_now);
  for (int64_t t = row; t < (HELD_OUT + TILE - 1) / TILE; t += HELD_OUT_ROWS) {
    load_tile(SESSION_GIVEN, member, 0, t * TILE, HELD_OUT, tile, rows, w, keys);
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
    validate_row(SESSION_GIVEN, member, GROUP_Y, GROUP_X, own, tile, rows, w, keys, each, scratch);
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

/* Whole epochs in one launch: SLICES groups a member, which meet twice a step. */
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
    const int64_t epoch = (step + 1) / STEPS_PER_EPOCH;
    if (goes_on && (step + 1) % STEPS_PER_EPOCH == 0 && (orders[OF_TRAINING] || validates(orders, epoch))) {
      if (validates(orders, epoch)) {
        hold(now, tile);
        for (int row = me; row < HELD_OUT_ROWS; row += SLICES)
          validate_row(SESSION_GIVEN_FOR_VALIDATION, member, slot, row, now, tile, rows, w, keys, each, scratch);
      }
      MEET;
      if (me == 0) look_at(SESSION_GIVEN, member, slot, epoch, scratch);
      MEET;
      goes_on = fate[member] == RUNNING;
    }
    BARRIER;
  }
}

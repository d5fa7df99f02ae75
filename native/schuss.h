/* The C interface of the CPU engine. One library is built for each instruction set, all with these names; Python loads the
 * best one the machine can run (src/schuss/engines/cpu.py). Numbers are float or double, as plan.element says; matrices are
 * C-ordered with samples in rows. Nothing is checked here: Training has done it. */
#ifndef SCHUSS_H
#define SCHUSS_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SCHUSS_EXPORT __attribute__((visibility("default")))

typedef struct {
  int32_t depth;              /* L, the number of layers */
  int32_t element;            /* bytes of a number: 4 or 8 */
  const int32_t *sizes;       /* d0..dL */
  const int32_t *activations; /* L codes, from schuss_activation */
} schuss_network;

typedef struct {
  schuss_network network;
  int32_t cost;    /* a code, from schuss_cost */
  int32_t shuffle; /* 1: a new order of the samples every epoch */
  int32_t threads;
  int64_t members, batch;          /* batch: samples of a step, at most data.samples */
  const uint64_t *shuffle_seeds;   /* (members,) */
  const uint32_t *bootstrap_keys;  /* (members, 4): of the times that a member's resampling holds each row; or NULL */
  double l2;
} schuss_plan;

typedef struct {
  int64_t samples;
  const void *x, *y, *weights; /* (n, d0), (n, dL), (n,) or NULL for ones */
  double total_weight;
} schuss_data;

typedef struct {
  int64_t every, last_epoch; /* the validation cost is looked at after these epochs (1-based) */
  int64_t patience;          /* epochs; below 0: never stop */
  double min_delta;
} schuss_watch;

typedef struct {
  const double *rates; /* (members, 3): learning rate, weight decay, momentum */
  int32_t nesterov, bias_momentum;
} schuss_sgd;

typedef struct schuss_session schuss_session;

/* The instruction set this library was built for, and the best one this machine runs: 0 baseline, 3 AVX2 and FMA, 4 AVX-512. */
SCHUSS_EXPORT int32_t schuss_built_level(void);
SCHUSS_EXPORT int32_t schuss_machine_level(void);

/* Codes of the rows of kernels/activations.h and kernels/costs.h, or -1. */
SCHUSS_EXPORT int32_t schuss_activation(const char *name);
SCHUSS_EXPORT int32_t schuss_cost(const char *name);

/* Open a session on parameters (members, p), which stay the caller's; the data, seeds and keys are copied. NULL: out of memory. */
SCHUSS_EXPORT schuss_session *schuss_open(const schuss_plan *, void *parameters, const schuss_data *training,
                                          const schuss_data *validation_or_null);
SCHUSS_EXPORT void schuss_close(schuss_session *);

/* Start a run (returns 0, or 1 when out of memory); advance it by some steps, writing the costs (epochs completed, members); end
 * it, restoring the best. */
SCHUSS_EXPORT int32_t schuss_begin(schuss_session *, const schuss_watch *);
SCHUSS_EXPORT void schuss_advance(schuss_session *, int64_t first_step, int64_t steps, const schuss_sgd *, double *costs,
                                  double *validation_costs);
SCHUSS_EXPORT void schuss_restore_best(schuss_session *);

/* The cost (members,) and gradient (members, p) on the samples of a step; changes nothing. */
SCHUSS_EXPORT void schuss_gradient(schuss_session *, int64_t step, double *costs, void *gradients);

/* State that outlives a step: 0 velocity (members, p); 1 fate (members,) int32; 2 the epoch of the fate (members,) int64. */
SCHUSS_EXPORT void *schuss_state(schuss_session *, int32_t which);

/* Outputs (members, n, dL) for x (n, d0). Returns 0, or 1 when out of memory. */
SCHUSS_EXPORT int32_t schuss_predict(const schuss_network *, const void *parameters, int64_t members, const void *x,
                                     int64_t samples, int32_t threads, void *outputs);

/* What the machine can do, measured for about some seconds on some threads at once. 0: FLOP/s of fused multiply-adds; 1: bytes/s
 * read from memory; 2: barriers/s; 3 + an activation's code: its values/s. */
SCHUSS_EXPORT double schuss_limit(int32_t which, int32_t element, int32_t threads, double seconds);

#ifdef __cplusplus
}
#endif
#endif

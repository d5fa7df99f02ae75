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
  const double *dropout;           /* (L,): the share of each layer's outputs; or NULL */
  double input_noise;              /* standard deviation; 0: none */
  int32_t cost;                    /* a code, from schuss_cost */
  int32_t group;                   /* outputs that share a column of y */
  const double *cost_options;      /* (dL,) */
  int32_t order;                   /* of the samples: 0 as given, 1 shuffled every epoch, 2 by blocks */
  int32_t threads;
  int64_t members, batch;          /* batch: samples of a step, at most data.samples */
  const uint64_t *shuffle_seeds;   /* (members,) */
  const uint64_t *noise_seeds;     /* (members,): of dropout and input noise */
  const uint32_t *bootstrap_keys;  /* (members, 4): of the times that a member's resampling holds each row; or NULL */
  const int32_t *folds;            /* (n,), of the samples; or NULL. The validation data are then the same samples in their order */
  const int32_t *left_out;         /* (members,): the fold that a member is validated on instead of trained */
  const int64_t *fold_ends;        /* (folds,): where each fold ends among the validation data */
  const double *fold_weights;      /* (folds,): the sums of their weights */
  const double *penalties;         /* (members, 2): l2, l1 */
  double average;                  /* the decay of the moving average of the parameters; 0: none is kept */
} schuss_plan;

typedef struct {
  int64_t samples;
  const void *x, *y, *weights; /* rows in place, which stay the caller's, weights NULL for ones; or x NULL: schuss_fill brings them */
  int32_t weighted;            /* whether schuss_fill will bring weights */
  double total_weight;
} schuss_data;

typedef struct {
  int64_t every, last_epoch; /* the validation cost is looked at after these epochs (1-based) */
  int64_t patience;          /* epochs; below 0: never stop */
  double min_delta;
  int32_t of_training;       /* 1: patience is with the training cost, of which every fall lowers the best */
  int32_t fresh;             /* 1: forget the best of an earlier run */
} schuss_watch;

enum { schuss_sgd, schuss_nesterov, schuss_adam, schuss_rmsprop, schuss_lbfgs };

typedef struct {
  int32_t kind, bias_momentum;
  int32_t history;       /* of L-BFGS: how many pairs */
  const double *rates;   /* (members, 6): learning rate (L-BFGS: tolerance), weight decay, momentum or beta1, beta2 or the decay of
                            the mean square, epsilon, the norm to clip at (0: never) */
  const double *factors; /* (steps, 6), by which the rates are multiplied; or NULL */
} schuss_optimizer;

typedef struct schuss_session schuss_session;

/* The instruction set this library was built for, and the best one this machine runs: 0 baseline, 1 NEON, 3 AVX2 and FMA,
 * 4 AVX-512. */
SCHUSS_EXPORT int32_t schuss_built_level(void);
SCHUSS_EXPORT int32_t schuss_machine_level(void);

/* Codes of the rows of kernels/activations.h and kernels/costs.h, or -1. */
SCHUSS_EXPORT int32_t schuss_activation(const char *name);
SCHUSS_EXPORT int32_t schuss_cost(const char *name);

/* What can fail returns 0, 1 when out of memory, or 2 after another error; then this is its text, for the calling thread. */
SCHUSS_EXPORT const char *schuss_error(void);

/* Open a session on parameters (members, p), which stay the caller's; seeds and keys are copied. */
SCHUSS_EXPORT int32_t schuss_open(const schuss_plan *, void *parameters, const schuss_data *training,
                                  const schuss_data *validation_or_null, schuss_session **opened);
SCHUSS_EXPORT void schuss_close(schuss_session *);

/* Bring the rows first..first+count of the training (0) or validation (1) data: (count, d0), (count, targets), (count,) or NULL. */
SCHUSS_EXPORT int32_t schuss_fill(schuss_session *, int32_t which, int64_t first, int64_t count, const void *x, const void *y,
                                  const void *weights);

/* Start a run, with state of the optimizer, fresh if it is of another kind than before; advance
 * it by some steps, writing the costs (epochs completed, members); end it, restoring the best. */
SCHUSS_EXPORT int32_t schuss_begin(schuss_session *, const schuss_watch *, const schuss_optimizer *);
SCHUSS_EXPORT int32_t schuss_advance(schuss_session *, int64_t first_step, int64_t steps, const schuss_optimizer *, double *costs,
                                     double *validation_costs);
SCHUSS_EXPORT void schuss_restore_best(schuss_session *);

/* The cost (members,) and gradient (members, p) on the samples of a step; changes nothing. */
SCHUSS_EXPORT int32_t schuss_gradient(schuss_session *, int64_t step, double *costs, void *gradients);

/* State that outlives a step, and its bytes (0: there is none now).
 * 0 velocity (members, p); 1 mean square (members, p); 2 average of the parameters (members, p); 3 the best ones (members, p);
 * 4 fate (members,) int32: 0 running, 1 diverged, 2 stopped, 3 converged; 5 the epoch of the fate (members,) int64;
 * 6 progress (members, 6) double: cost and weight of the epoch so far, best validation cost and its epoch, steps of the optimizer,
 * steps averaged; 7 pairs of L-BFGS (members, history, 2, p); 8 how many of them were ever kept (members,) int64. */
SCHUSS_EXPORT void *schuss_state(schuss_session *, int32_t which, int64_t *bytes);

/* How a step is cut, "small", "shallow", "tiled" or "wide", and how many threads work. */
SCHUSS_EXPORT const char *schuss_scheme(schuss_session *, int32_t *threads);

/* Outputs (members, n, dL) for x (n, d0). */
SCHUSS_EXPORT int32_t schuss_predict(const schuss_network *, const void *parameters, int64_t members, const void *x,
                                     int64_t samples, int32_t threads, void *outputs);

/* What the machine can do, measured for about some seconds on some threads at once. 0: FLOP/s of fused multiply-adds; 1: bytes/s
 * read from memory; 2: barriers/s; 3 + an activation's code: its values/s. */
SCHUSS_EXPORT int32_t schuss_limit(int32_t which, int32_t element, int32_t threads, double seconds, double *found);

#ifdef __cplusplus
}
#endif
#endif

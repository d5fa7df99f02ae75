/* Training on a GPU: one text for CUDA and OpenCL, compiled for one plan. program.py writes the definitions that it needs before
 * it, and SESSION, the list of all buffers, which every kernel takes; what each buffer holds stands there. P: parameters of a
 * member; D0, DL: inputs and outputs. */
#include "dialect.h"

/* The activations, costs and optimizers of all engines, on one number. */
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

#include "step.cl"

#if TILED
#include "tiles.cl"
#else
#include "pieces.cl"
#endif

#include "update.cl"

#if WHOLE_RUNS
#include "epochs.cl"
#endif

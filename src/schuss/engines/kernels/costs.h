/* The costs of all compiled engines, one pair of lines a row: COST(name, value, derivative).
 * value is the share c of one output in the cost of a sample, derivative is dc/da; both of the target y, the output a and the
 * cost's option p for that output. Where a cost has a link (schuss/costs.py), a is what goes into the last activation: the logit.
 * The includer defines COST and the functions used here: those of activations.h, and SIGN. cross_entropy, which mixes the outputs
 * of a sample, is no row but a function of each engine. */
COST(quadratic, CONST(0.5) * (a - y) * (a - y),
     a - y)
COST(absolute, ABS(a - y),
     SIGN(a - y))
COST(huber, MIN(p, ABS(a - y)) * (ABS(a - y) - CONST(0.5) * MIN(p, ABS(a - y))),
     MAX(-p, MIN(p, a - y)))
COST(quantile, MAX(p * (y - a), (p - CONST(1)) * (y - a)),
     WHERE_POSITIVE(y - a, -p, CONST(1) - p))
COST(poisson, EXPONENTIAL(a) - y * a,
     EXPONENTIAL(a) - y)
COST(binary_cross_entropy, MAX(CONST(0), a) + LOG1P(EXP(-ABS(a))) - (y + p * (CONST(0.5) - y)) * a,
     SIGMOID(a) - (y + p * (CONST(0.5) - y)))

/* The activations of all compiled engines, one pair of lines a row: ACTIVATION(name, read, value, derivative).
 * value is f(z); derivative is f'(z), written in a where read is OUTPUT and in z where it is INPUT. The includer defines
 * ACTIVATION and the functions used here, on its own type of number V: CONST(x), EXP, EXPONENTIAL (which overflows to infinity), EXPM1 (of numbers at most 0 in elu,
 * softplus), LOG1P (of 0..1), SIGMOID, SILU, TANH, PHI (the normal distribution function), MAX, MIN, ABS and
 * WHERE_POSITIVE(a, yes, no). Their formulas in NumPy: schuss/activations.py. */
ACTIVATION(linear, OUTPUT, z,
           CONST(1))
ACTIVATION(sigmoid, OUTPUT, SIGMOID(z),
           a - a * a)
ACTIVATION(tanh, OUTPUT, TANH(z),
           CONST(1) - a * a)
ACTIVATION(relu, OUTPUT, MAX(CONST(0), z),
           WHERE_POSITIVE(a, CONST(1), CONST(0)))
ACTIVATION(leaky_relu, OUTPUT, MAX(CONST(0.01) * z, z),
           WHERE_POSITIVE(a, CONST(1), CONST(0.01)))
ACTIVATION(elu, OUTPUT, WHERE_POSITIVE(z, z, EXPM1(MIN(CONST(0), z))),
           WHERE_POSITIVE(a, CONST(1), a + CONST(1)))
ACTIVATION(gelu, INPUT, z * PHI(z),
           PHI(z) + z * EXP(CONST(-0.5) * z * z) * CONST(0.39894228040143267794))
ACTIVATION(silu, INPUT, SILU(z),
           SIGMOID(z) * (CONST(1) + z * (CONST(1) - SIGMOID(z))))
ACTIVATION(softplus, OUTPUT, MAX(CONST(0), z) + LOG1P(EXP(-ABS(z))),
           -EXPM1(-a))
ACTIVATION(exp, OUTPUT, EXPONENTIAL(z),
           a)
